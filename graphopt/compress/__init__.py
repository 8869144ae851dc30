"""The mathematics of compression: ranges, grids, rounding, where integers pay; no graph edits.

``quantize`` and ``QuantizeConfig`` are the public names of quantization::

    found = graphopt.compress.quantize("model.onnx", "calibration.npz")
    graphopt.to_onnx(found.graph, "quantized.onnx")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.quantization import QuantizeConfig, Quantized, quantize

__all__ = ["QuantizeConfig", "Quantized", "quantize"]


def __getattr__(name: str) -> Any:
    # Lazy: what quantizes a model uses passes and kernels, which lie above the mathematics.
    if name not in __all__:
        raise AttributeError(f"module 'graphopt.compress' has no attribute '{name}'")
    import graphopt.quantization as whole

    return getattr(whole, name)
