"""Fixtures of the tests of ops."""

from __future__ import annotations

import pytest

from tests.ops.bench import Bench


@pytest.fixture
def bench() -> Bench:
    """An empty graph to build in."""
    return Bench()
