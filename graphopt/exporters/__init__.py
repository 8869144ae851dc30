"""Writers of other frameworks' models. Each imports its framework when it is called."""

from graphopt.exporters.onnx import to_onnx

__all__ = ["to_onnx"]
