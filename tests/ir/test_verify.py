"""The verifier finds each broken invariant and says which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphopt.errors import VerifyError
from graphopt.ir import Builder, DType, Graph, Node, Stage, TensorType, Use, Value, parse, verify

F32 = TensorType(DType.F32, (2,))

_TEXT = """graph @g(%c: bool[], %x: f32[2]) -> (%z) {
  %k = const f32[2] [1, 2]
  %a = Mul(%x, %k) @["mul"]
  %b = Relu(%a) @["relu"]
  %z = If(%c) @["if"] regions {
    else_branch = @e() -> (%x as "same") {
    }
    then_branch = @t() -> (%r) {
      %r = Neg(%b) @["neg"]
    }
  }
}"""


def _node(graph: Graph, name: str) -> Node:
    return next(n for n in graph.walk() if n.output.name == name)


def _value(graph: Graph, name: str) -> Value:
    return _node(graph, name).output


def _use_before_definition(graph: Graph) -> None:
    graph.move_before(_node(graph, "b"), _node(graph, "a"))


def _out_of_scope(graph: Graph) -> None:
    graph.set_output(0, _value(graph, "r"))


def _operand_out_of_scope(graph: Graph) -> None:
    node = Builder(graph, origin=["late"]).call(_node(graph, "b").op, _value(graph, "b"))
    graph.set_input(node, 0, _value(graph, "r"))


def _no_origin(graph: Graph) -> None:
    _node(graph, "b").origin = frozenset()


def _unknown_use(graph: Graph) -> None:
    _value(graph, "a")._uses.clear()


def _false_use(graph: Graph) -> None:
    a = _value(graph, "a")
    a._uses[id(_node(graph, "z")), 0] = Use(_node(graph, "z"), 0)


def _misfiled_use(graph: Graph) -> None:
    a = _value(graph, "a")
    a._uses[0, 0] = next(iter(a._uses.values()))


def _unknown_output(graph: Graph) -> None:
    graph.outputs[0]._uses.clear()


def _same_name(graph: Graph) -> None:
    _value(graph, "r").name = "a"


def _other_graph(graph: Graph) -> None:
    _value(graph, "r").graph = graph


def _other_parent(graph: Graph) -> None:
    _node(graph, "z").attrs["then_branch"].parent = Graph()


def _other_producer(graph: Graph) -> None:
    _value(graph, "b").producer = _node(graph, "a")


def _miscounted(graph: Graph) -> None:
    graph._count += 1


def _too_few_operands(graph: Graph) -> None:
    node = _node(graph, "a")
    del _node(graph, "a").inputs[1]._uses[id(node), 1]  # type: ignore[union-attr]
    node._inputs.pop()


def _too_many_operands(graph: Graph) -> None:
    graph.set_input(_node(graph, "b"), 1, graph.inputs[1])


def _too_many_outputs(graph: Graph) -> None:
    node = _node(graph, "b")
    node.outputs = (*node.outputs, Value("extra", F32, graph, node, 1))


def _twice_the_same_output_name(graph: Graph) -> None:
    graph.add_output(graph.inputs[1], "z")


@pytest.mark.parametrize(
    ("break_it", "cause"),
    [
        (_use_before_definition, "operand %a is used before it is defined or out of scope"),
        (_operand_out_of_scope, "operand %r is used before it is defined or out of scope"),
        (_out_of_scope, "output 'z' is not defined in the graph"),
        (_no_origin, "has no origin"),
        (_unknown_use, "%a does not know this use"),
        (_false_use, "%a lists a use that does not read it"),
        (_misfiled_use, "%a lists a use that does not read it"),
        (_unknown_output, "%z does not know that it is output 0"),
        (_same_name, "the name %a is used twice"),
        (_other_graph, "%r says that it belongs to another graph"),
        (_other_parent, "region 't' belongs to another graph"),
        (_other_producer, "%b names another producer"),
        (_miscounted, "counts 4 nodes but links 3"),
        (_too_few_operands, "Mul takes at least 2 operands"),
        (_too_many_operands, "Relu takes at most 1 operands"),
        (_too_many_outputs, "Relu yields at most 1 outputs"),
        (_twice_the_same_output_name, "two outputs of one name"),
    ],
)
def test_a_broken_graph_is_refused(break_it: Callable[[Graph], None], cause: str) -> None:
    graph = parse(_TEXT)
    verify(graph, types=True)
    break_it(graph)
    with pytest.raises(VerifyError) as info:
        verify(graph)
    assert cause in str(info.value)


@pytest.mark.parametrize(
    ("type", "cause"),
    [
        (TensorType(DType.F32, (3,)), "%b is declared f32[3] but inferred f32[2]"),
        (TensorType(DType.F64, (2,)), "%b is declared f64[2] but inferred f32[2]"),
        (TensorType(DType.F32, (2, 1)), "%b is declared f32[2, 1] but inferred f32[2]"),
    ],
)
def test_types_are_compared_with_inference(type: TensorType, cause: str) -> None:
    graph = parse(_TEXT)
    _value(graph, "b").type = type
    verify(graph)
    with pytest.raises(VerifyError) as info:
        verify(graph, types=True)
    assert cause in str(info.value)


def test_a_type_may_say_less_than_inference() -> None:
    graph = parse(_TEXT)
    _value(graph, "b").type = TensorType(DType.F32, None)
    verify(graph, types=True)


def test_operands_that_no_longer_fit_are_found() -> None:
    graph = parse(_TEXT)
    wide = graph.add_constant(np.zeros(3, np.float32), "wide")
    graph.set_input(_node(graph, "a"), 1, wide)
    verify(graph)
    with pytest.raises(VerifyError, match="do not broadcast"):
        verify(graph, types=True)


def test_a_stage_may_refuse_nodes() -> None:
    graph = parse(_TEXT)

    def accepts(node: Node) -> str | None:
        return "no kernel" if node.is_a("Neg") else None

    with pytest.raises(VerifyError, match="not allowed in a lowered graph: no kernel"):
        verify(graph, Stage.LOWERED, accepts=accepts)
