"""Shared by all tests: the ops are registered, so that text forms and builders find them."""

import graphopt.ops  # noqa: F401
