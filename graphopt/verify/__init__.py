"""Checking that a compiled model still computes what the source model says."""

from graphopt.verify.compare import TOLERANCES, Comparison, bits_equal, compare, relative_error
from graphopt.verify.inputs import default_sizes, fit_inputs, random_inputs
from graphopt.verify.oracle import Oracle, find_oracle, rounding_errors

__all__ = [
    "TOLERANCES",
    "Comparison",
    "Oracle",
    "bits_equal",
    "compare",
    "default_sizes",
    "find_oracle",
    "fit_inputs",
    "random_inputs",
    "relative_error",
    "rounding_errors",
]
