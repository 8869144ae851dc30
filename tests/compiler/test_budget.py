"""The search for layers that a lower precision must leave alone, on made-up errors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from graphopt.budget import keep_sensitive


class _Model:
    """Layers whose errors add up; counts how often it is measured."""

    def __init__(self, errors: dict[str, float]) -> None:
        self.errors = errors
        self.measured = 0

    def excess(self, kept: Sequence[str]) -> float:
        self.measured += 1
        return sum(e for name, e in self.errors.items() if name not in kept)


def _model(count: int, bad: dict[int, float]) -> _Model:
    return _Model({f"l{i}": bad.get(i, 0.001) for i in range(count)})


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 40, 75])
@pytest.mark.parametrize("where", [0.0, 0.5, 0.99])
def test_one_bad_layer_is_kept_with_few_others(count: int, where: float) -> None:
    bad = int(where * count)
    model = _model(count, {bad: 5.0})
    kept = keep_sensitive(list(model.errors), model.excess)
    assert kept is not None
    assert f"l{bad}" in kept
    assert len(kept) <= max(1, count // 16)
    assert model.measured <= 20


def test_several_bad_layers() -> None:
    model = _model(64, {3: 2.0, 20: 3.0, 63: 4.0})
    kept = keep_sensitive(list(model.errors), model.excess)
    assert kept is not None
    assert {"l3", "l20", "l63"} <= set(kept)
    assert len(kept) <= 18
    assert model.excess(kept) <= 1


def test_none_where_nothing_helps() -> None:
    assert keep_sensitive(["a", "b"], lambda kept: 3.0) is None
    assert keep_sensitive([], lambda kept: 3.0) is None
