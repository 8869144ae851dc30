"""A pass that runs before what it needs is found, and both are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from graphopt.backends import Target, find
from graphopt.ir import Graph, Stage
from graphopt.passes import TABLE, parse_pipeline
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import Pass, PassContext, Pipeline, lint


@dataclass(frozen=True)
class _Nothing(Pass):
    def run(self, graph: Graph, ctx: PassContext) -> bool:
        return False


@dataclass(frozen=True)
class Lower(_Nothing):
    name: ClassVar[str] = "lower"
    ensures: ClassVar[Stage | None] = Stage.LOWERED


@dataclass(frozen=True)
class Emit(_Nothing):
    name: ClassVar[str] = "emit"
    requires: ClassVar[Stage] = Stage.LOWERED


@dataclass(frozen=True)
class First(_Nothing):
    name: ClassVar[str] = "first"


@dataclass(frozen=True)
class Second(_Nothing):
    name: ClassVar[str] = "second"
    follows: ClassVar[tuple[str, ...]] = ("first",)


def test_stages() -> None:
    assert lint(Pipeline((Lower(), Emit()))) == []
    assert lint(Emit(), stage=Stage.LOWERED) == []
    (found,) = lint(Pipeline((Emit(), Lower())), library=[Lower, First])
    assert found.is_error and (found.pass_name, found.other) == ("emit", "lower")
    assert str(found) == (
        "error: 'emit' takes a lowered graph, but runs on a source one: it needs 'lower' before it"
    )


def test_order() -> None:
    assert lint(Pipeline((First(), Second()))) == []
    assert lint(Second()) == [], "what is not run at all is not missed"
    (found,) = lint(Pipeline((Second(), Pipeline((First(),)))))
    assert not found.is_error
    assert str(found) == "warning: 'second' runs before 'first', whose results it looks for"


def test_a_repeated_group_comes_round_again() -> None:
    assert lint(Pipeline((Second(), First()), max_rounds=2)) == []
    assert len(lint(Pipeline((Pipeline((Second(),), 2), Pipeline((First(),), 2))))) == 1


@pytest.mark.parametrize("name", sorted(LEVELS))
def test_our_own_pipelines_are_in_order(name: str) -> None:
    assert lint(level(name)) == []
    target = Target.parse("cpu")
    lowering = find(target.kind).pipeline(target)
    assert lint(Pipeline((*level(name).passes, *lowering.passes))) == []


def test_names_that_passes_follow_exist() -> None:
    target = Target.parse("cpu")
    lowering = find(target.kind).pipeline(target)
    classes = [*(TABLE.load(name) for name in TABLE.names()), *(type(p) for p in lowering.passes)]
    names = {cls.name for cls in classes}
    for cls in classes:
        assert set(cls.follows) <= names, cls.name


def test_a_pipeline_in_the_wrong_order() -> None:
    found = lint(parse_pipeline("decompose,fuse-attention,fold-affine,fuse-softmax"))
    assert [(f.pass_name, f.other) for f in found] == [
        ("decompose", "fold-affine"),
        ("fuse-attention", "fuse-softmax"),
    ]
