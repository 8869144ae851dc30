"""Backends: one folder each, found through the registry."""

from graphopt.backends.base import Backend, Compiled, Executable, Target, Unavailable
from graphopt.backends.registry import find, names

__all__ = ["Backend", "Compiled", "Executable", "Target", "Unavailable", "find", "names"]
