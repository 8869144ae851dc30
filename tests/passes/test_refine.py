"""Refinement: types that follow from a value that is known better, and branches that cannot run."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.errors import ModelError, OperandError
from graphopt.ir import DType, Graph, TensorType, Value, parse, sym, verify
from graphopt.ops.control import certain, impossible
from graphopt.ops.interpreter import run_graph
from graphopt.passes import parse_pipeline
from graphopt.rewrite.refine import refine


def _value(graph: Graph, name: str) -> Value:
    return next(v for n in graph.walk() for v in n.outputs if v.name == name)


def _special(graph: Graph, text: str) -> None:
    """Says that input x is of the type ``text``, and what follows."""
    x = graph.inputs[0]
    x.type = parse(f"graph @g(%x: {text}) -> (%x) {{}}").inputs[0].type
    refine(graph, [x])
    verify(graph, types=True)


def test_types_follow_through_chains_and_regions() -> None:
    graph = parse("""graph @g(%x: f32[*], %c: bool[]) -> (%y) {
  %a: f32[*] = Relu(%x) @["a"]
  %y: f32[*] = If(%c) @["if"] regions {
    else_branch = @e() -> (%a as "same") {
    }
    then_branch = @t() -> (%n) {
      %n: f32[*] = Neg(%a) @["n"]
    }
  }
}""")
    _special(graph, "f32[N, 3]")
    for name in ("a", "n", "y"):
        assert _value(graph, name).shape == (sym("N"), 3)


def test_known_contents_follow() -> None:
    graph = parse("""graph @g(%x: f32[*]) -> (%y) {
  %s: i64[r] = Shape(%x) @["s"]
  %y: i64[] = Size(%s) @["y"]
}""")
    _special(graph, "f32[N, 3]")
    assert _value(graph, "s").elements == (sym("N"), 3)
    assert _value(graph, "y").elements == (2,)


def test_sizes_that_inference_cannot_name_again_keep_their_names() -> None:
    graph = parse("""graph @g(%x: f32[*]) -> (%y) {
  %i: i64[r, count] = NonZero(%x) @["i"]
  %y: i64[r, count] = Neg(%i) @["y"]
}""")
    _special(graph, "f32[N, 3]")
    assert _value(graph, "i").shape == (2, sym("count"))
    assert _value(graph, "y").shape == (2, sym("count"))


def test_a_number_is_kept_where_inference_says_less() -> None:
    graph = parse("""graph @g(%x: f32[*]) -> (%y) {
  %y: f32[4] = Relu(%x) @["y"]
}""")
    x = graph.inputs[0]
    x.type = TensorType(DType.F32, (sym("N"),))
    refine(graph, [x])
    assert _value(graph, "y").shape == (4,)


def test_a_node_that_certainly_runs_and_does_not_fit_is_an_error() -> None:
    graph = parse("""graph @g(%x: f32[*]) -> (%y) {
  %w = const f32[3, 2] seed(1)
  %y: f32[*] = Gemm(%x, %w) @["gemm"]
}""")
    with pytest.raises(OperandError, match="gemm"):
        _special(graph, "f32[2, 2, 3]")


def test_a_branch_that_does_not_fit_cannot_run() -> None:
    graph = parse("""graph @g(%x: f32[*], %c: bool[]) -> (%y) {
  %w = const f32[3, 2] seed(1)
  %y: f32[*] = If(%c) @["if"] regions {
    else_branch = @e() -> (%x as "same") {
    }
    then_branch = @t() -> (%r) {
      %r: f32[*] = Gemm(%x, %w) @["gemm"]
    }
  }
}""")
    _special(graph, "f32[2, 2, 3]")
    node = graph.nodes[-1]
    assert "gemm" in (impossible(node.attrs["then_branch"]) or "")
    assert impossible(node.attrs["else_branch"]) is None
    assert node.output.shape == (2, 2, 3)
    x = np.ones((2, 2, 3), np.float32)
    np.testing.assert_array_equal(run_graph(graph, [x, np.array(False)])[0], x)
    with pytest.raises(ModelError, match="gemm"):
        run_graph(graph, [x, np.array(True)])


def test_a_body_that_does_not_fit_is_no_error_of_a_loop_that_may_not_run() -> None:
    graph = parse("""graph @g(%x: f32[*], %n: i64[]) -> (%y) {
  %w = const f32[3, 2] seed(1)
  %zero = const f32[1] [0.0]
  %y: f32[*] = Loop(%n, _, %zero) @["loop"] regions {
    body = @b(%i: i64[], %c: bool[], %s: f32[*]) -> (%c as "go", %r) {
      %r: f32[*] = Gemm(%x, %w) @["gemm"]
    }
  }
}""")
    _special(graph, "f32[2, 2, 3]")
    assert "gemm" in (impossible(graph.nodes[0].attrs["body"]) or "")
    x = np.zeros((2, 2, 3), np.float32)
    np.testing.assert_array_equal(run_graph(graph, [x, np.array(0)])[0], [0.0])
    with pytest.raises(ModelError, match="gemm"):
        run_graph(graph, [x, np.array(1)])


def test_conditions_that_are_certain() -> None:
    graph = parse("""graph @g(%x: f32[N, 3], %c: bool[]) -> (%a, %b, %d, %c) {
  %three = const i64[] [3]
  %one = const i64[] [1]
  %zero = const i64[] [0]
  %s = Shape(%x) @["s"]
  %w = Gather(%s, %one) @["w"]
  %n = Gather(%s, %zero) @["n"]
  %a = Equal(%w, %three) @["a"]
  %b = Equal(%w, %one) @["b"]
  %d = Equal(%n, %one) @["d"]
}""")
    assert [certain(v) for v in graph.outputs] == [True, False, None, None]
    constants = parse("""graph @g() -> (%a, %b) {
  %a = const bool[1] [1]
  %b = const bool[2] [1, 1]
}""")
    assert [certain(v) for v in constants.outputs] == [True, None]


def test_nothing_is_left_of_a_decided_conditional_but_its_branch() -> None:
    graph = parse("""graph @g(%x: f32[N, 3]) -> (%y) {
  %c = const bool[] [0]
  %y = If(%c) @["if"] regions {
    else_branch = @e() -> (%n) {
      %k = const f32[] [2.0]
      %n = Mul(%x, %k) @["n"]
    }
    then_branch = @t() -> (%r) {
      %r = Relu(%x) @["r"]
    }
  }
}""")
    parse_pipeline("inline-if")(graph)
    verify(graph, types=True)
    (node,) = graph
    assert node.is_a("Mul") and node.graph is graph
    assert node.origin == {"if", "n"}
    assert "k" in graph.constants
