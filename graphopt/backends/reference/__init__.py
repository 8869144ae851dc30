"""The reference backend: the numpy interpreter behind the artifact format.

It runs everything that has semantics, everywhere, slowly. Other backends hand it single nodes.
"""

from graphopt.backends.reference.backend import ReferenceBackend
from graphopt.backends.reference.evaluate import evaluate_text

__all__ = ["ReferenceBackend", "evaluate_text"]
