"""The CUDA backend: CUDA C++ text of our own templates and generated groups, compiled by NVRTC."""

from graphopt.backends.cuda.backend import CudaBackend

__all__ = ["CudaBackend"]
