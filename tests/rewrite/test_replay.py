"""Replaying the edit log on the input graph gives the output graph, to the last name and bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

from benchmarks import zoo
from graphopt.backends import Target, find
from graphopt.errors import ModelError, OptionError, ParseError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import Builder, Graph, Journal, clone, parse, play, print_graph, verify
from graphopt.passes import TABLE, parse_pipeline
from graphopt.passes.pipelines import level
from graphopt.rewrite import EditLog, Pass, PassContext, replay
from graphopt.testing import parse_cases
from tests.property.random_graphs import graphs

ROOT = Path(__file__).resolve().parent.parent.parent


def recorded(pass_: Pass, source: Graph) -> tuple[Graph, EditLog]:
    """What the pass makes of a copy, and its log."""
    graph = clone(source)
    log = EditLog(record=True)
    pass_(graph, PassContext(log=log))
    assert not graph.journaled
    return graph, log


def written(log: EditLog) -> EditLog:
    """The log through its text."""
    again = EditLog.from_json_lines(log.to_json_lines(), log.constants())
    assert list(again) == list(log)
    return again


def check(pass_: Pass, source: Graph) -> EditLog:
    """Replays in memory and from text; every prefix is a valid graph."""
    result, log = recorded(pass_, source)
    text = print_graph(result)
    for one in (log, written(log)):
        again = replay(source, one)
        assert print_graph(again) == text
        assert _digests(again) == _digests(result)
    for count in range(0, len(log) + 1, max(1, len(log) // 20)):
        verify(replay(source, log, count))
    return log


def _digests(graph: Graph) -> Mapping[str, str]:
    return {n: v.constant.digest for n, v in graph.constants.items() if v.constant is not None}


@pytest.mark.parametrize("name", [model.name for model in zoo.models()])
@pytest.mark.zoo
@pytest.mark.timeout(600)
def test_the_zoo_is_rebuilt_from_its_log(name: str) -> None:
    check(level("O2"), from_onnx(zoo.path(name)))


@pytest.mark.parametrize("name", [model.name for model in zoo.models()])
@pytest.mark.zoo
@pytest.mark.timeout(600)
def test_lowering_the_zoo_is_rebuilt_from_its_log(name: str) -> None:
    """The hand-written passes of a backend, groups with regions no less."""
    source = from_onnx(zoo.path(name))
    graph, log, target = clone(source), EditLog(record=True), Target.parse("cpu")
    ctx = PassContext(log=log, target=target)
    level("O2")(graph, ctx)
    find(target.kind).pipeline(target)(graph, ctx)
    assert any(edit.pass_name.startswith("cpu-") for edit in log)
    assert print_graph(replay(source, log)) == print_graph(graph)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(max_nodes=16))
def test_random_graphs_are_rebuilt_from_their_log(graph: Graph) -> None:
    note(print_graph(graph))
    check(level("O2"), graph)


SPECIFICATIONS = sorted((ROOT / "passes").glob("*.gir"))


@pytest.mark.parametrize("file", SPECIFICATIONS, ids=[file.stem for file in SPECIFICATIONS])
def test_every_specified_change_is_rebuilt_from_its_log(file: Path) -> None:
    changed = 0
    for case in parse_cases(file.read_text()).cases:
        if case.unchanged is None:
            changed += len(check(TABLE.parse(case.spec), parse(case.before)))
    assert changed


REGIONS = """graph @g(%c: bool[], %x: f32[2]) -> (%y) {
  %one = const f32[2] [1.0, nan]
  %y = If(%c) @["if"] regions {
    else_branch = @e() -> (%x as "same") {
    }
    then_branch = @t() -> (%r) {
      %two = const f32[2] [2.0, 3.0]
      %q = Relu(%x) @["q"]
      %r = Add(%q, %two) @["r"]
    }
  }
}"""


def _replayed(source: Graph, change: Any) -> Graph:
    graph = clone(source)
    journal = Journal(graph)
    graph.journal(journal)
    change(graph)
    graph.journal(None)
    again = clone(source)
    play(again, journal.entries)
    assert print_graph(again) == print_graph(graph)
    verify(again)
    return again


def test_regions_built_while_journaled_are_rebuilt() -> None:
    def change(graph: Graph) -> None:
        node = graph.nodes[0]
        region = Graph("fresh", graph)
        inner = Builder(region, origin=node.origin)
        region.add_output(inner.Mul(graph.inputs[1], inner.constant([4.0, 5.0])))
        graph.set_attr(node, "else_branch", region)
        copy = clone(graph)
        other = copy.nodes[0].attrs["then_branch"]
        assert isinstance(other, Graph)
        then = node.attrs["then_branch"]
        builder = Builder(then, before=then.nodes[-1], origin=["new"])
        then.set_input(then.nodes[-1], 0, builder.Neg(then.nodes[0].output))
        then.set_output(0, builder.Abs(graph.inputs[1]))
        then.remove_dead()

    graph = _replayed(parse(REGIONS), change)
    assert [n.op.name for n in graph.nodes[0].attrs["then_branch"]] == ["Abs"]


def test_every_kind_of_change_is_rebuilt() -> None:
    def change(graph: Graph) -> None:
        graph.add_input("z", graph.inputs[1].type)
        node = graph.nodes[0]
        values = graph.inline(node, node.attrs["then_branch"])
        graph.replace(node, values)
        relu, add = graph.nodes
        relu.origin = frozenset({"q", "if"})
        spare = Builder(graph, origin=["s"]).Abs(graph.inputs[2])
        graph.move_before(spare.producer, relu)
        graph.add_output(spare, "spare")
        graph.set_attr(add, "note", 3)
        graph.set_attr(add, "note", None)
        graph.rename(spare, "renamed")
        spare.type = graph.inputs[1].type
        spare.set_elements(None)
        graph.erase_constant(graph.constants["one"])
        graph.replace_all_uses(graph.inputs[0], graph.inputs[2])
        graph.erase_input(graph.inputs[0])

    graph = _replayed(parse(REGIONS), change)
    assert [v.name for v in graph.inputs] == ["x", "z"]
    assert graph.output_names == ("y", "spare")


def test_numbers_that_text_does_not_tell_go_beside_it() -> None:
    source = parse('graph @g(%x: f32[2]) -> (%y) {\n%y = Relu(%x) @["n"]\n}')
    graph, log = clone(source), EditLog(record=True)

    @log_pass(log)
    def change(graph: Graph) -> None:
        quiet = np.array([0x7FC00001, 0x3F800000], np.uint32).view(np.float32)
        builder = Builder(graph, origin=["n"])
        builder.Add(graph.inputs[0], builder.constant(quiet))
        builder.Add(
            graph.inputs[0], builder.constant(np.arange(34, dtype=np.float32).reshape(17, 2))
        )

    change(graph)
    assert len(log.constants()) == 2
    again = replay(source, written(log))
    assert _digests(again) == _digests(graph)
    with pytest.raises(ModelError, match="not part of the text"):
        bare = EditLog.from_json_lines(log.to_json_lines())
        assert next(iter(replay(source, bare).constants.values())).constant.array


def log_pass(log: EditLog) -> Any:
    """Runs a function as a pass that logs nothing itself."""

    def wrap(function: Any) -> Any:
        def call(graph: Graph) -> None:
            log.follow(graph)
            before = log.begin("p")
            function(graph)
            log.end("p", before)
            graph.journal(None)

        return call

    return wrap


def test_changes_without_an_edit_become_one() -> None:
    source = parse('graph @g(%x: f32[2]) -> (%y) {\n%y = Relu(%x) @["n"]\n}')
    log = EditLog(record=True)
    log_pass(log)(lambda g: g.rename(g.nodes[0].output, "other"))(clone(source))
    (edit,) = log
    assert (edit.pass_name, edit.rule, edit.step, edit.number) == ("p", "(unlogged)", 1, 1)
    assert replay(source, log).outputs[0].name == "other"


def test_a_log_tells_what_it_cannot_do() -> None:
    source = parse(
        'graph @g(%x: f32[2]) -> (%y) {\n%a = Identity(%x) @["a"]\n%y = Relu(%a) @["n"]\n}'
    )
    log = EditLog()
    parse_pipeline("simplify")(clone(source), PassContext(log=log))
    with pytest.raises(OptionError, match="make it by EditLog"):
        replay(source, log)
    _, log = recorded(parse_pipeline("simplify"), source)
    with pytest.raises(OptionError, match="has 1 edits, not 2"):
        replay(source, log, 2)
    other = parse('graph @h(%z: f32[2]) -> (%y) {\n%y = Relu(%z) @["n"]\n}')
    with pytest.raises(ModelError, match="made of another graph than 'h'"):
        replay(other, log)
    with pytest.raises(ParseError, match="line 1 of the edit log is damaged"):
        EditLog.from_json_lines("{}")
    with pytest.raises(ParseError, match="line 1 of the edit log is damaged"):
        EditLog.from_json_lines("nonsense")


def test_a_log_of_two_graphs_is_not_replayed() -> None:
    log = EditLog(record=True)
    for _ in range(2):
        source = parse('graph @g(%x: f32[2]) -> (%y) {\n%y = Identity(%x) @["n"]\n}')
        parse_pipeline("simplify")(source, PassContext(log=log))
    assert len(log) == 2
    with pytest.raises(OptionError, match="cannot be replayed"):
        replay(source, log)


def test_edits_say_what_they_save() -> None:
    source = parse("""graph @g(%x: f32[N, 4]) -> (%y) {
  %one = const f32[] [1.0]
  %a = Mul(%x, %one) @["a"]
  %y = Relu(%a) @["n"]
}""")
    _, log = recorded(parse_pipeline("simplify"), source)
    assert str(log[0]).startswith("#1 simplify/DropUnit: %a = Mul(%x, %one)  ->  (nothing new)")
    assert log[0].reason.startswith("x * 1 -> x")
    effect = log.effect(0)
    assert effect is not None
    assert (str(effect.flops), str(effect.bytes)) == ("-4*N", "-32*N - 4")
    assert written(log).effect(0) == log.effect(0)


def test_only_the_graph_changes_what_is_private_to_it() -> None:
    """What goes past the graph's methods is in no journal, so no log rebuilds it."""
    forbidden = re.compile(r"\.(_type|_elements|_inputs|_outputs|_attrs|_uses|metadata\[.*\]) = ")
    for folder in ("passes", "rewrite", "backends", "compress"):
        for file in sorted((ROOT / "graphopt" / folder).rglob("*.py")):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                found = forbidden.search(line)
                assert found is None or line.strip().startswith("self."), f"{file}:{number}: {line}"
