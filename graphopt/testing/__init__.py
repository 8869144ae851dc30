"""Helpers to test rules, passes and backends: cases in text, equal graphs, equal numbers."""

from graphopt.testing.cases import Case, CaseFile, parse_cases, run_case
from graphopt.testing.equal import difference
from graphopt.testing.numbers import bits_differ, run_seeded, seeded_inputs, worst_error
from graphopt.testing.rules import check_refusal, check_rule

__all__ = [
    "Case",
    "CaseFile",
    "bits_differ",
    "check_refusal",
    "check_rule",
    "difference",
    "parse_cases",
    "run_case",
    "run_seeded",
    "seeded_inputs",
    "worst_error",
]
