"""Helpers to test rules, passes and backends: cases in text, equal graphs, equal numbers."""

from graphopt.testing.cases import Case, CaseFile, parse_cases, run_case
from graphopt.testing.equal import difference
from graphopt.testing.numbers import bits_differ, run_seeded, seeded_inputs, worst_error

__all__ = [
    "Case",
    "CaseFile",
    "bits_differ",
    "difference",
    "parse_cases",
    "run_case",
    "run_seeded",
    "seeded_inputs",
    "worst_error",
]
