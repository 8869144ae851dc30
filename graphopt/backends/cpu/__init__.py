"""The CPU backend: hand-written kernels for heavy ops, generated code for the rest."""

from graphopt.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
