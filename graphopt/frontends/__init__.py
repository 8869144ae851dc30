"""Readers of other frameworks' models. Each imports its framework when it is called."""

from graphopt.frontends.onnx import from_onnx

__all__ = ["from_onnx"]
