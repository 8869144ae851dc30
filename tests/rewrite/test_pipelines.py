"""Passes and pipelines as data: text, options, instruments, and errors that help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import OptionError
from graphopt.ir import Graph, parse
from graphopt.passes import TABLE, parse_pipeline
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import Pass, PassContext, PassTable, Pipeline


@dataclass(frozen=True)
class Probe(Pass):
    """Says that it changed something ``times`` times."""

    name: ClassVar[str] = "probe"

    ratio: float = 0.5
    label: str = "a"
    sizes: tuple[int, ...] = ()
    deep: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        calls.append(self.label)
        return len(calls) < 3


calls: list[str] = []
PROBES = PassTable({"probe": f"{__name__}:Probe", "other": f"{__name__}:Probe"})


def _graph() -> Graph:
    return parse("graph @g(%x: f32[2]) -> (%x) {}")


@given(
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    label=st.text(alphabet="abc,{}()'\"\\ =", max_size=5),
    sizes=st.lists(st.integers(-3, 3), max_size=3).map(tuple),
    deep=st.booleans(),
    rounds=st.integers(1, 3),
)
def test_pipelines_print_and_parse(
    ratio: float, label: str, sizes: tuple[int, ...], deep: bool, rounds: int
) -> None:
    one = Probe(ratio=ratio, label=label, sizes=sizes, deep=deep)
    pipeline = Pipeline((one, Pipeline((Probe(),), rounds)))
    again = PROBES.parse(str(pipeline))
    assert str(again) == str(pipeline)
    assert again.passes[0] == one


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("simplfy", "there is no pass 'simplfy'; did you mean simplify"),
        ("fold-constants{max=1}", "has no option 'max' (it has ['dequantize', 'max_bytes'])"),
        ("fold-constants{max_bytes=big}", "option 'max_bytes' of pass 'fold-constants'"),
        ("fold-constants{max_bytes=1", "unbalanced"),
        ("simplify}", "unbalanced '}'"),
        ("repeat[x](simplify)", "bad repeat count"),
    ],
)
def test_bad_pipelines_are_explained(spec: str, cause: str) -> None:
    with pytest.raises(OptionError) as info:
        parse_pipeline(spec)
    assert cause in str(info.value)


def test_a_name_is_taken_once() -> None:
    table = PassTable({"probe": "a:A"})
    with pytest.raises(OptionError, match="'probe' is taken by a:A"):
        table.register("probe", "b:B")
    both = table.including(PassTable({"other": "c:C"}))
    assert both.names() == ["other", "probe"]
    assert table.names() == ["probe"]


def test_a_pipeline_repeats_until_nothing_changes() -> None:
    calls.clear()
    assert Pipeline((Probe(),), max_rounds=9)(_graph())
    assert calls == ["a"] * 3


def test_instruments_see_leaf_passes_in_order() -> None:
    calls.clear()
    seen: list[Any] = []
    ctx = PassContext(
        before=[lambda p, g: seen.append(("before", str(p)))],
        after=[lambda p, g: seen.append(("after", str(p)))],
    )
    PROBES.parse("probe{label='x'},probe{label='y'}")(_graph(), ctx)
    names = ["probe{label='x'}", "probe{label='y'}"]
    assert seen == [(when, name) for name in names for when in ("before", "after")]
    assert ctx.ran == names
    assert set(ctx.seconds) == {"probe"}


def test_a_run_can_be_stopped_after_some_passes() -> None:
    calls.clear()
    ctx = PassContext(stop_after=2)
    PROBES.parse("probe,repeat[3](probe),probe")(_graph(), ctx)
    assert len(ctx.ran) == 2 and ctx.stopped


def test_a_crash_names_the_pass() -> None:
    @dataclass(frozen=True)
    class Crash(Pass):
        name: ClassVar[str] = "crash"

        def run(self, graph: Graph, ctx: PassContext) -> bool:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as info:
        Crash()(_graph())
    assert info.value.__notes__ == ["in pass 'crash'"]


@pytest.mark.parametrize("name", sorted(LEVELS))
def test_levels_parse_back(name: str) -> None:
    assert str(parse_pipeline(str(level(name)))) == str(level(name))


def test_an_unknown_level_lists_those_there_are() -> None:
    with pytest.raises(OptionError, match="there are: O0, O1, O2"):
        level("O9")


def test_listing_passes_loads_none() -> None:
    assert "fuse-attention" in TABLE.names()
    assert TABLE.load("fuse-attention").name == "fuse-attention"
