"""Writers of other frameworks' models. Each imports its framework when it is called."""

from graphopt.exporters.onnx import save_onnx, to_onnx

__all__ = ["save_onnx", "to_onnx"]
