"""Graphs: use-def chains hold under any mutation; names, order and scopes stay in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError, OperandError, VerifyError
from graphopt.ir import (
    Builder,
    DType,
    Graph,
    Node,
    TensorType,
    Value,
    clone,
    parse,
    print_graph,
    resolve_op,
    sym,
    verify,
)
from tests.property.random_graphs import graphs

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
F32 = TensorType(DType.F32, (2,))
Draw = Callable[[Any], Any]


def regions(graph: Graph) -> list[Graph]:
    """A graph and all its regions."""
    return [graph, *(region for node in graph.walk() for region in node.regions)]


def assert_uses_hold(graph: Graph) -> None:
    """Every value lists exactly the readings that there are, found by looking everywhere."""
    found: Counter[tuple[int, int, int]] = Counter()
    values: list[Value] = []
    for owner in regions(graph):
        values += [*owner.inputs, *owner.constants.values()]
        for index, value in enumerate(owner.outputs):
            found[id(value), id(owner), index] += 1
        for node in owner:
            values += node.outputs
            for index, operand in enumerate(node.inputs):
                if operand is not None:
                    found[id(operand), id(node), index] += 1
    listed = Counter((id(v), id(use.user), use.index) for v in values for use in v.uses)
    assert listed == found


def assert_links_hold(graph: Graph) -> None:
    """The list of nodes is the same in both directions, and as long as it says."""
    for owner in regions(graph):
        forward = list(owner)
        assert forward == list(reversed(owner))[::-1]
        assert len(forward) == len(owner)
        assert owner.nodes == tuple(forward)


class Mutator:
    """Random changes that keep a graph well-formed."""

    def __init__(self, draw: Draw, graph: Graph) -> None:
        self.draw = draw
        self.graph = graph

    def before(self, node: Node | None) -> list[Value]:
        """Values of the outer graph that are defined before ``node`` (all of them for None)."""
        found = [*self.graph.inputs, *self.graph.constants.values()]
        for other in self.graph:
            if other is node:
                break
            found += other.outputs
        return found

    def pick(self, items: Any) -> Any:
        items = list(items)
        return self.draw(st.sampled_from(items)) if items else None

    def set_input(self) -> None:
        node = self.pick(n for n in self.graph if n.inputs)
        if node is None:
            return
        index = self.draw(st.integers(0, len(node.inputs) - 1))
        old = node.inputs[index]
        new = self.pick(v for v in self.before(node) if old is not None and v.type == old.type)
        if new is not None:
            self.graph.set_input(node, index, new)

    def set_output(self) -> None:
        index = self.draw(st.integers(0, len(self.graph.outputs) - 1))
        self.graph.set_output(index, self.pick(self.before(None)))

    def replace_all_uses(self) -> None:
        old = self.pick(self.before(None))
        first = next((n for n in self.graph if n in old.users or _reads(n, old)), None)
        new = self.pick(v for v in self.before(first) if v.type == old.type)
        if new is not None:
            self.graph.replace_all_uses(old, new)

    def replace(self) -> None:
        node = self.pick(self.graph)
        if node is None:
            return
        values = [self.pick(v for v in self.before(node) if v.type == o.type) for o in node.outputs]
        if all(v is not None or not o.use_count for v, o in zip(values, node.outputs, strict=True)):
            self.graph.replace(node, values)

    def erase(self) -> None:
        node = self.pick(n for n in self.graph if not any(v.use_count for v in n.outputs))
        if node is not None:
            self.graph.erase(node)

    def add(self) -> None:
        anchor = self.pick([*self.graph, None])
        value = self.pick(v for v in self.before(anchor) if v.tensor.dtype is DType.F32)
        Builder(self.graph, before=anchor, origin=["added"]).Neg(value)

    def add_constant(self) -> None:
        self.graph.add_constant(np.zeros(2, np.float32), "zeros")

    def move(self) -> None:
        node = self.pick(self.graph)
        if node is None:
            return
        users = [n for n in self.graph if any(_reads(n, v) for v in node.outputs)]
        order = list(self.graph)
        limit = min((order.index(u) for u in users), default=len(order))
        at = order.index(node)
        spots = [order[i] if i < len(order) else None for i in range(at, limit + 1)]
        self.graph.move_before(node, self.pick(spots))

    def remove_dead(self) -> None:
        self.graph.remove_dead()

    def rename(self) -> None:
        value = self.pick(self.before(None))
        self.graph.rename(value, self.graph.fresh_name(f"renamed_{value.name}") + "_x")

    def set_attr(self) -> None:
        node = self.pick(n for n in self.graph if n.is_a("Softmax"))
        if node is not None:
            self.graph.set_attr(node, "axis", self.pick([None, -1, 0]))

    def inline(self) -> None:
        node = self.pick(n for n in self.graph if n.is_a("If"))
        if node is not None:
            values = self.graph.inline(node, node.attrs[self.pick(["then_branch", "else_branch"])])
            self.graph.replace(node, values)

    def step(self) -> None:
        steps = [
            self.set_input, self.set_output, self.replace_all_uses, self.replace, self.erase,
            self.add, self.add_constant, self.move, self.remove_dead, self.rename, self.set_attr,
            self.inline,
        ]  # fmt: skip
        self.draw(st.sampled_from(steps))()


def _reads(node: Node, value: Value) -> bool:
    """True when ``node`` reads ``value``, be it in a region."""
    if value in node.inputs:
        return True
    return any(
        value in owner.outputs or any(_reads(inner, value) for inner in owner)
        for owner in node.regions
    )


@SETTINGS
@given(graph=graphs(max_nodes=8), data=st.data())
def test_chains_hold_under_random_mutations(graph: Graph, data: st.DataObject) -> None:
    mutator = Mutator(data.draw, graph)
    for _ in range(data.draw(st.integers(1, 12))):
        mutator.step()
        assert_uses_hold(graph)
        assert_links_hold(graph)
        verify(graph)


@SETTINGS
@given(graph=graphs())
def test_a_clone_is_equal_and_apart(graph: Graph) -> None:
    text = print_graph(graph)
    copy = clone(graph)
    assert print_graph(copy) == text
    assert_uses_hold(copy)
    verify(copy, types=True)
    ours = {id(v) for owner in regions(graph) for n in owner for v in n.outputs}
    for owner in regions(copy):
        assert owner.root is copy
        for node in owner:
            assert not any(id(v) in ours for v in (*node.inputs, *node.outputs) if v is not None)
    for index in range(len(copy.outputs)):
        copy.set_output(index, copy.inputs[0])
    copy.remove_dead()
    assert len(copy) == 0
    assert print_graph(graph) == text
    assert_uses_hold(graph)


def test_a_clone_shares_the_data_of_constants() -> None:
    graph = parse("graph @g() -> (%c) {\n %c = const f32[64] seed(1)\n}")
    assert clone(graph).outputs[0].constant is graph.outputs[0].constant


# ---- iterating ----


def _chain(length: int) -> Graph:
    graph = Graph()
    value = graph.add_input("x", F32)
    for index in range(length):
        value = Builder(graph, origin=[f"n{index}"]).Neg(value)
    graph.add_output(value)
    return graph


def test_nodes_may_be_erased_while_one_iterates() -> None:
    graph = _chain(5)
    graph.set_output(0, graph.inputs[0])
    seen = 0
    for _ in graph:
        seen += 1
        graph.remove_dead()
    assert seen == 1 and len(graph) == 0


def test_nodes_may_be_inserted_while_one_iterates() -> None:
    graph = _chain(3)
    seen = []
    for node in graph:
        seen.append(node)
        if len(seen) < 10 and node.is_a("Neg"):
            new = Builder(graph, before=node, origin=node.origin).Abs(node.inputs[0])
            graph.set_input(node, 0, new)
    assert [n.op.name for n in seen] == ["Neg"] * 3
    assert [n.op.name for n in graph] == ["Abs", "Neg"] * 3
    verify(graph)


# ---- names ----


def test_names_are_unique_over_regions() -> None:
    graph = Graph()
    x = graph.add_input("x", F32)
    region = Graph("body", graph)
    assert region.add_input("x", F32, rename=True).name == "x.1"
    with pytest.raises(ModelError, match="'x' is used twice"):
        graph.add_input("x", F32)
    assert Builder(graph, origin=["n"]).op("Neg", x, _name="x").name == "x.2"


def test_a_new_value_takes_over_the_name_that_a_model_knows() -> None:
    graph = _chain(1)
    (node,) = graph
    graph.rename(node.output, "logits")
    new = Builder(graph, before=node, origin=node.origin).Abs(graph.inputs[0])
    graph.replace(node, [new])
    assert new.name == "logits"
    assert graph.output_names == ("neg",)
    constant = graph.add_constant(np.zeros(2, np.float32), "logits")
    assert constant.name == "logits.1"
    graph.replace(new.producer or node, [constant])
    assert constant.name == "logits" and graph.constants["logits"] is constant


def test_fresh_symbols_avoid_those_in_use() -> None:
    graph = Graph()
    graph.add_input("x", TensorType(DType.F32, (sym("u") + 1,)))
    assert str(graph.fresh_symbol("u")) == "u.1"


# ---- refusals ----


def test_a_value_that_is_read_cannot_go() -> None:
    graph = _chain(2)
    first, _ = graph
    with pytest.raises(ValueError, match="still used"):
        graph.erase(first)
    with pytest.raises(ValueError, match="still used"):
        graph.erase_input(graph.inputs[0])
    constant = graph.add_constant(np.zeros(2, np.float32))
    graph.set_output(0, constant)
    with pytest.raises(ValueError, match="still used"):
        graph.erase_constant(constant)


def test_a_node_cannot_go_twice() -> None:
    graph = _chain(1)
    (node,) = graph
    graph.set_output(0, graph.inputs[0])
    graph.erase(node)
    assert node.erased
    with pytest.raises(ValueError, match="erased before"):
        graph.erase(node)
    with pytest.raises(ValueError, match="was erased"):
        _ = node.graph


def test_an_anchor_must_be_in_the_graph() -> None:
    other = _chain(1)
    graph = _chain(1)
    with pytest.raises(VerifyError, match="is not in graph"):
        Builder(graph, before=other.nodes[0], origin=["n"]).Neg(graph.inputs[0])


def test_regions_that_take_inputs_cannot_be_inlined() -> None:
    graph = _chain(1)
    region = Graph("body", graph)
    region.add_input("i", F32)
    with pytest.raises(ValueError, match="takes inputs"):
        graph.inline(graph.nodes[0], region)


@pytest.mark.parametrize(
    ("op", "operands", "cause"),
    [
        ("Add", 1, "at least 2 operands"),
        ("Relu", 2, "at most 1 operands"),
        ("MatMul", 3, "at most 2 operands"),
    ],
)
def test_operand_counts_are_checked(op: str, operands: int, cause: str) -> None:
    graph = Graph()
    x = graph.add_input("x", F32)
    with pytest.raises(OperandError, match=cause):
        graph.add(resolve_op(op), [x] * operands, origin=["n"])


def test_absent_operands_at_the_end_are_dropped() -> None:
    graph = Graph()
    x = graph.add_input("x", F32)
    assert graph.add(resolve_op("Clip"), [x, None, None], origin=["n"]).inputs == (x,)


def test_setting_a_region_lets_go_of_the_old_one() -> None:
    graph = parse("""graph @g(%c: bool[], %x: f32[2]) -> (%y) {
  %a = Neg(%x) @["a"]
  %y = If(%c) @["if"] regions {
    else_branch = @e() -> (%x as "same") {
    }
    then_branch = @t() -> (%r) {
      %r = Relu(%a) @["r"]
    }
  }
}""")
    node = graph.nodes[1]
    region = Graph("empty", graph)
    region.add_output(graph.inputs[1])
    graph.set_attr(node, "then_branch", region)
    assert_uses_hold(graph)
    assert graph.remove_dead() == 1
    verify(graph)


def test_a_tensor_is_asked_for_by_name() -> None:
    graph = parse("graph @g(%s: seq<f32[2]>) -> (%s) {}")
    with pytest.raises(ModelError, match="'s' is seq"):
        _ = graph.inputs[0].tensor
