"""The text form: whatever a graph holds prints and parses back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphopt.errors import ModelError, ParseError
from graphopt.ir import (
    Constant,
    DType,
    Graph,
    OptionalType,
    SequenceType,
    TensorType,
    opaque_op,
    parse,
    print_graph,
    print_node,
    sym,
    verify,
)
from graphopt.testing import bits_differ, difference, run_seeded
from tests.property.random_graphs import graphs

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _run_alike(a: Graph, b: Graph) -> bool:
    try:
        expected = run_seeded(b)
    except ModelError:  # sizes that do not broadcast
        return True
    return not bits_differ(run_seeded(a), expected)


@SETTINGS
@given(graph=graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    text = print_graph(graph, inline_elements=None)
    back = parse(text)
    verify(back, types=True)
    assert print_graph(back, inline_elements=None) == text
    assert difference(back, graph) is None
    assert _run_alike(back, graph)


@SETTINGS
@given(graph=graphs())
def test_large_constants_stand_by_their_digest(graph: Graph) -> None:
    text = print_graph(graph, inline_elements=0)
    arrays = {
        value.constant.digest: value.constant.array
        for owner in [graph, *(r for n in graph.walk() for r in n.regions)]
        for value in owner.constants.values()
        if value.constant is not None
    }
    back = parse(text, constants=arrays)
    assert print_graph(back, inline_elements=0) == text
    assert _run_alike(back, graph)
    assert print_graph(parse(text, constants=arrays.__getitem__), inline_elements=0) == text


def test_contents_that_nobody_gives_are_an_error_only_when_looked_at() -> None:
    graph = parse("graph @g() -> (%c) {\n %c = const f32[3] #00112233445566778899aabbccddeeff\n}")
    (value,) = graph.outputs
    assert value.constant is not None and not value.constant.available
    assert "#00112233445566778899aabbccddeeff" in print_graph(graph)
    with pytest.raises(ModelError, match="not part of the text"):
        _ = value.constant.array


# ---- attributes ----

_scalars = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32),
    st.text(max_size=12),
    st.binary(max_size=6),
)
_types = st.recursive(
    st.builds(
        TensorType,
        st.sampled_from(list(DType)),
        st.one_of(
            st.none(),
            st.lists(st.sampled_from([0, 1, 7, sym("N"), sym("N") // 2 + 1]), max_size=3).map(
                tuple
            ),
        ),
    ),
    lambda inner: st.one_of(st.builds(SequenceType, inner), st.builds(OptionalType, inner)),
    max_leaves=3,
)
_attributes = st.one_of(
    _scalars,
    st.lists(st.integers(-9, 9), max_size=3).map(tuple),
    st.lists(st.floats(width=32), max_size=3).map(tuple),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
    _types,
    st.just(sym("N") * 2 + 1),
)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes() or (a != a and b != b)
    return type(a) is type(b) and bool(a == b)


@SETTINGS
@given(attrs=st.dictionaries(st.sampled_from(["a", "axis", "to_x"]), _attributes, max_size=3))
def test_attributes_round_trip(attrs: dict[str, Any]) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    node = graph.add(opaque_op("Foo", "my.domain"), [x], attrs, types=[x.type], origin=["n"])
    graph.add_output(node.output)
    (back,) = parse(print_graph(graph))
    assert back.op.qualified == "my.domain::Foo"
    assert back.attrs.keys() == attrs.keys()
    for name, value in attrs.items():
        assert _same(back.attrs[name], value), (value, back.attrs[name])


def test_a_tensor_as_an_attribute_round_trips() -> None:
    text = """graph @g() -> (%y) {
  %s = const i64[1] [2]
  %y: f32[2] = ConstantOfShape(%s) {value = tensor f32[1] [0.5]} @["n"]
}
"""
    graph = parse(text)
    assert print_graph(graph) == text
    (node,) = graph
    assert isinstance(node.attrs["value"], Constant)


# ---- constants ----


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.STRING], ids=str)
def test_constants_of_every_type_round_trip(dtype: DType) -> None:
    numbers = np.array([0, 1, 2, 1, 0, 2], np.float64)
    if dtype.is_float and dtype not in (DType.F8E8M0, DType.F4E2M1, DType.F6E2M3, DType.F6E3M2):
        numbers = np.array([0.5, -0.0, 1.5, -2, 0.125, 3], np.float64)
    array = numbers.astype(dtype.numpy).reshape(2, 3)
    graph = Graph()
    graph.add_output(graph.add_constant(array, "c"))
    (value,) = parse(print_graph(graph)).outputs
    assert value.constant is not None
    assert value.constant.type == TensorType(dtype, (2, 3))
    assert value.constant.array.tobytes() == array.tobytes()


@SETTINGS
@given(
    array=st.lists(st.floats(width=32), min_size=1, max_size=5).map(
        lambda x: np.array(x, np.float32)
    )
)
def test_every_f32_round_trips(array: np.ndarray[Any, Any]) -> None:
    graph = Graph()
    graph.add_output(graph.add_constant(array, "c"))
    (value,) = parse(print_graph(graph)).outputs
    assert value.constant is not None
    assert not bits_differ([value.constant.array], [array])


@pytest.mark.parametrize(
    "text", ["", "plain", 'quo"te', "back\\slash", "new\nline", "日本", "\x00"]
)
def test_text_round_trips_wherever_it_stands(text: str) -> None:
    graph = Graph()
    graph.metadata["key " + text] = text
    x = graph.add_input(text or "x", TensorType(DType.F32, ()))
    strings = np.empty(1, object)
    strings[0] = text
    c = graph.add_constant(strings, "c")
    node = graph.add(
        opaque_op("Op", "d"), [x, c], {"s": text}, types=[x.type], origin=["o" + text], name=text
    )
    graph.add_output(node.output, "out " + text)
    back = parse(print_graph(graph))
    assert print_graph(back) == print_graph(graph)
    assert back.metadata == graph.metadata
    assert back.output_names == graph.output_names
    assert back.nodes[0].attrs["s"] == text
    assert back.nodes[0].origin == {"o" + text}


# ---- what tests write ----


def test_described_constants() -> None:
    graph = parse("""graph @g() -> (%a, %b, %c, %d) {
  %a = const f32[2, 2] splat(-0.5)
  %b = const f32[3] seed(7)
  %c = const i64[4] seed(7, -2, 3)
  %d = const f32[9] any
}""")
    a, b, c, d = (value.constant for value in graph.outputs)
    assert a is not None and b is not None and c is not None and d is not None
    np.testing.assert_array_equal(a.array, np.full((2, 2), -0.5, np.float32))
    np.testing.assert_array_equal(
        b.array, np.random.default_rng(7).standard_normal(3).astype(np.float32)
    )
    assert c.array.dtype == np.int64 and c.array.min() >= -2 and c.array.max() < 3
    assert not d.available and d.type == TensorType(DType.F32, (9,))


def test_types_that_are_not_written_are_inferred() -> None:
    graph = parse("""graph @g(%x: f32[N, 3]) -> (%y) {
  %axes = const i64[1] [1]
  %y = ReduceMean(%x, %axes) {keepdims = 0}
}""")
    assert graph.outputs[0].type == TensorType(DType.F32, (sym("N"),))


def test_one_node_prints_alone() -> None:
    graph = parse('graph @g(%x: f32[2]) -> (%y) {\n  %y = Relu(%x) @["r"]\n}')
    assert print_node(graph.nodes[0]) == '%y: f32[2] = Relu(%x) @["r"]'


# ---- refusals ----


_ONE = "graph @g(%x: f32[2]) -> (%y) {\n %y = "
_CONSTANT = "graph @g() -> (%c) {\n %c = const "


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "line 1, column 1: expected 'graph'"),
        ("graph g() -> () {}", "expected '@'"),
        ("graph @g() -> () {", "expected a value"),
        ("graph @g() -> () {} graph", "unexpected 'graph' after the graph"),
        ("graph @g(%x: f32[2], %x: f32[2]) -> (%x) {}", "%x is defined twice"),
        ("graph @g(%x: f99[2]) -> (%x) {}", "unknown element type 'f99'"),
        ("graph @g(%x: f32[2 3]) -> (%x) {}", "bad size"),
        ("graph @g(%x: f32[N // 0]) -> (%x) {}", "divided by zero"),
        ("graph @g() -> (%y) {}", "%y is not defined"),
        (_ONE + "Relu(%z)\n}", "line 2, column 12: %z is not defined"),
        (_ONE + "Relu(%x)\n %y = Neg(%x)\n}", "%y is defined twice"),
        (_ONE + "Relu(%x) {a = b(1)}\n}", "attribute form 'b'"),
        (_ONE + 'Relu(%x) {a = hex("0")}\n}', "pairs of hexadecimal digits"),
        (_CONSTANT + "f32[2] [1]\n}", "takes 2 elements, not 1"),
        (_CONSTANT + "f32[N] [1]\n}", "needs a static shape"),
        (_CONSTANT + "seq<f32[1]> [1]\n}", "needs a tensor type"),
        (_CONSTANT + "f32[1] [x]\n}", "expected a number, found 'x'"),
        (_CONSTANT + "f32[1] noise(1)\n}", "expected splat(x), seed(n)"),
        ("graph @g(%x: f32[2]) -> (%x) {} ~", "unexpected character '~'"),
    ],
)
def test_malformed_text_is_refused_where_it_is_malformed(text: str, cause: str) -> None:
    with pytest.raises(ParseError) as info:
        parse(text)
    assert cause in str(info.value)
    assert str(info.value).startswith("line ")


def test_operands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="Gemm"):
        parse("graph @g(%x: f32[2]) -> (%y) {\n %y = Gemm(%x, %x)\n}")
