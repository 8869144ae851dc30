"""Named orders of passes, as data."""

from __future__ import annotations

from graphopt.errors import OptionError
from graphopt.passes import parse_pipeline
from graphopt.rewrite import Pipeline

__all__ = ["LEVELS", "level"]

_CLEAN = (
    "simplify,simplify-arithmetic,merge-reshapes,cancel-reshapes,eliminate-dead,"
    "simplify-indices,merge-slices,merge-pads,split-slices,"
    "fold-shapes,drop-expands,cancel-quantize,inline-if,inline-loop,trim-regions,hoist-invariants,"
    "trim-outputs,merge-common,eliminate-dead"
)

# Factors move once formulas that contain them are found.
_FUSE = (
    "merge-branches,fuse-embedding,simplify-activations,fold-pads,fuse-activation,fuse-recurrent,fuse-scan,"
    "fuse-layer-norm,fuse-instance-norm,fuse-softmax,fuse-lp-norm,merge-affine,"
    "hoist-scales,sink-scales,merge-reductions,simplify-pools,reorder-pools,fuse-gemm"
)

LEVELS = {
    "O0": "",
    "O1": f"merge-weights,repeat[4](fold-constants,{_CLEAN})",
    "O2": (
        f"merge-weights,repeat[4](fold-constants,{_CLEAN},specialize-if,fold-affine,decompose,"
        f"decompose-einsum,{_FUSE},sink-transposes)"
    ),
    # For other runtimes: composite ops stay whole, and no constant is left to every run. Products
    # that are equal but for what folds into them are not to be merged before it does; weights may
    # be equal only after.
    "onnx": (
        f"fold-constants{{max_bytes={1 << 29}}},merge-weights,simplify,simplify-arithmetic,"
        f"fold-affine,repeat[4](fold-constants{{max_bytes={1 << 29}}},{_CLEAN},specialize-if,"
        f"fold-affine,{_FUSE},sink-transposes),merge-weights"
    ),
}


def level(name: str) -> Pipeline:
    """The pipeline called ``name``. Raises OptionError."""
    spec = LEVELS.get(name)
    if spec is None:
        raise OptionError(
            f"there is no optimization level '{name}' (there are: {', '.join(LEVELS)})"
        )
    return parse_pipeline(spec)
