"""Which layers compute in integers, and which values between them are quantized.

A layer is a Conv, ConvTranspose, Gemm or MatMul with constant weights. It wants its operand in
integers. So do ops that carry integers on (pools, concatenations, residual sums, whatever moves
elements), where their result is wanted and they are fed by layers. An activation after a layer
belongs to it: the value is quantized behind the activation, not before. Where the producer computes
in integers, every reader reads the quantized value; where it computes in floats (a normalisation,
an embedding), only those that want integers do, and a residual stream stays as it is.

Values that an op only moves share one grid. So do the operands of a concatenation where that costs
little range.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from graphopt.ir import DType, Graph, Node, TensorType, Value, static_shape
from graphopt.rewrite import Refusal

__all__ = ["Layer", "Placement", "layer_of", "layers_of", "place"]

# Ops whose result consists of elements of operand 0.
MOVES = frozenset(
    {
        "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "MaxPool",
        "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"})
# What runs in the epilogue of a layer, or by table.
_ACTIVATIONS = frozenset(
    {
        "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu",
        "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
_POINTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Min", "Max"})
# A grid shared by a concatenation may be that much wider than what an operand needs.
_WIDENING = 2.0


@dataclass(frozen=True)
class Layer:
    """A node with constant weights that can run in integers.

    ``axis`` is that of the output channels in the weights, None where they have no single one.
    ``bias`` is the operand's index, None where there is none to quantize.
    """

    node: Node
    name: str
    axis: int | None
    weight: int = 1
    bias: int | None = None

    @property
    def input(self) -> Value:
        """The operand that varies."""
        found = self.node.input(0)
        assert found is not None
        return found

    @property
    def weights(self) -> Value:
        """The constant operand."""
        found = self.node.input(self.weight)
        assert found is not None
        return found

    @property
    def summed_axis(self) -> int:
        """The axis of the weights of a Gemm or MatMul that products are summed over."""
        return 1 if self.node.is_a("Gemm") and self.node.attr("transB") else 0


@dataclass
class Placement:
    """What is quantized: ``layers`` in order, and ``readers`` of each quantized value.

    ``groups`` maps a value to the first of those that share its grid. ``joins`` are concatenations,
    whose operands may share one.
    """

    layers: list[Layer] = field(default_factory=list)
    readers: dict[Value, list[Node]] = field(default_factory=dict)
    groups: dict[Value, Value] = field(default_factory=dict)
    joins: list[tuple[Value, ...]] = field(default_factory=list)

    def root(self, value: Value) -> Value:
        """The value that stands for all that share the grid of ``value``."""
        while (above := self.groups.get(value, value)) is not value:
            value = above
        return value

    def tie(self, first: Value, second: Value) -> None:
        """Makes two values share a grid."""
        a, b = self.root(first), self.root(second)
        if a is not b:
            self.groups[b] = a

    def shared_ranges(
        self, ranges: Mapping[str, tuple[float, float]]
    ) -> dict[Value, tuple[float, float]]:
        """The range of each quantized value once those that share a grid agree.

        Operands of a concatenation join where none of them gets a range more than twice as wide as
        its own: the others are quantized anew in it.
        """
        found: dict[Value, tuple[float, float]] = {}
        for value in self.readers:
            found[self.root(value)] = _union(found.get(self.root(value)), ranges[value.name])
        for join in self.joins:
            roots = list(dict.fromkeys(self.root(value) for value in join))
            wide = (0.0, 0.0)
            for root in roots:
                wide = _union(wide, found[root])
            if all(_width(wide) <= _WIDENING * _width(found[root]) for root in roots):
                for root in roots[1:]:
                    self.tie(roots[0], root)
                found[roots[0]] = wide
        return {value: found[self.root(value)] for value in self.readers}


def _union(a: tuple[float, float] | None, b: tuple[float, float]) -> tuple[float, float]:
    return b if a is None else (min(a[0], b[0]), max(a[1], b[1]))


def _width(found: tuple[float, float]) -> float:
    return max(found[1], 0.0) - min(found[0], 0.0)


def layers_of(graph: Graph) -> list[Layer]:
    """Every layer of the graph that could run in integers, in order; names are unique."""
    found: list[Layer] = []
    taken: set[str] = set()
    for node in graph:
        shape = _layer_axis(node)
        if shape is None:
            continue
        name = node.name or min(node.origin, default=node.output.name)
        if name in taken:
            name = node.output.name
        taken.add(name)
        found.append(Layer(node, name, shape[0], 1, _bias(node)))
    return found


def layer_of(node: Node) -> Layer | Refusal:
    """The layer that ``node`` is, or why it is none."""
    found = next((layer for layer in layers_of(node.graph) if layer.node is node), None)
    if found is None:
        return Refusal(lambda: f"{node.op.qualified} is no layer with constant weights", node)
    return found


def _layer_axis(node: Node) -> tuple[int | None] | None:
    """The axis of output channels, in a tuple; None for what is no layer."""
    if node.op.domain or node.op.name not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return None
    data, weight = node.input(0), node.input(1)
    if data is None or weight is None or weight.constant is None or data.is_constant:
        return None
    if not _is_f32(data) or not _is_f32(weight) or not weight.constant.available:
        return None
    rank = weight.tensor.rank
    if node.is_a("Conv"):
        return (0,)
    if node.is_a("ConvTranspose"):
        return (1 if node.attr("group") == 1 else None,)
    if node.is_a("Gemm"):
        plain = node.attr("alpha") == 1.0 and node.attr("beta") == 1.0 and not node.attr("transA")
        return (0 if node.attr("transB") else 1,) if plain else None
    return (1,) if rank == 2 else None


def _bias(node: Node) -> int | None:
    value = node.input(2)
    if value is None or value.constant is None or not _is_f32(value):
        return None
    return 2 if value.tensor.rank == 1 else None


def _is_f32(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.dtype is DType.F32


def place(
    graph: Graph, keep: Collection[str] = (), known: Collection[str] | None = None
) -> Placement:
    """Decides for the outermost level of ``graph``; nested regions stay in floats.

    Layers named in ``keep`` stay in floats. ``known`` names the values whose ranges are known, all
    if None: a layer that would want another one stays in floats, too. Work is linear.
    """
    every = layers_of(graph)
    layers = [x for x in every if x.name not in keep and _known(x.input, known)]
    of_node = {layer.node: layer for layer in layers}
    integral = _integral(graph, of_node)
    wanted, wanting = _wanted(graph, of_node, integral, known)
    result = Placement(layers)
    order = {node: index for index, node in enumerate(graph)}
    for value in sorted(wanted, key=lambda v: -1 if v.producer is None else order[v.producer]):
        users = [n for n in value.users if n in order]
        if value not in integral:
            users = [n for n in users if value in wanting.get(n, ())]
        result.readers[value] = users
    for node in graph:
        operands = [v for v in wanting.get(node, ()) if v in wanted]
        outputs = [v for v in node.outputs if v in wanted]
        if not outputs or not operands:
            continue
        if node.op.name in MOVES or node.op.name == "Split" or _nearest(node):
            for value in outputs:
                result.tie(operands[0], value)
        elif node.is_a("Concat"):
            result.joins.append((*operands, *outputs))
    return result


def _known(value: Value, known: Collection[str] | None) -> bool:
    return known is None or value.name in known


def _integral(graph: Graph, layers: Mapping[Node, Layer]) -> set[Value]:
    """Values that come out of layers, through ops that are fused with them or carry integers."""
    found: set[Value] = set()
    for node in graph:
        if node in layers:
            found.update(node.outputs)
            continue
        name = node.op.name
        if node.op.domain or not _passes(name) or (name == "ReduceMean" and not _over_space(node)):
            continue
        count = None if name in _POINTWISE or name == "Concat" else 1
        operands = [v for v in node.inputs[:count] if v is not None and not v.is_constant]
        if operands and all(v in found for v in operands):
            found.update(v for v in node.outputs if _is_f32(v))
    return found


def _passes(name: str) -> bool:
    return (
        name in MOVES
        or name in _AVERAGES
        or name in _ACTIVATIONS
        or name in _POINTWISE
        or name in ("Concat", "Split")
    )


def _wanted(
    graph: Graph,
    layers: Mapping[Node, Layer],
    integral: set[Value],
    known: Collection[str] | None,
) -> tuple[set[Value], dict[Node, list[Value]]]:
    """Values to quantize, and for each node which of its operands it wants in integers."""
    wanted: set[Value] = set()
    wanting: dict[Node, list[Value]] = {}
    # Values that become wanted ones behind an activation.
    leads: set[Value] = set()
    for node in reversed(graph):
        if node in layers:
            wants: Iterable[Value] = (layers[node].input,)
        elif node.op.domain:
            continue
        else:
            ahead = node.output in wanted or node.output in leads
            if ahead and node.op.name in _ACTIVATIONS:
                leads.update(v for v in node.inputs[:1] if v is not None)
            wants = _carried(node, wanted, leads, integral)
        chosen = [v for v in wants if _is_f32(v) and not v.is_constant and _known(v, known)]
        chosen = [v for v in chosen if v.producer is None or not _dequantized(v.producer)]
        if chosen:
            wanting[node] = chosen
            wanted.update(v for v in chosen if v.graph is graph)
    return wanted, wanting


def _dequantized(node: Node) -> bool:
    return node.is_a("DequantizeLinear")


def _carried(
    node: Node, wanted: set[Value], leads: set[Value], integral: set[Value]
) -> list[Value]:
    """Operands that an op between layers should read in integers, as its result is wanted so."""
    name, out = node.op.name, node.output
    if name in MOVES or name in _AVERAGES or name == "Split":
        data = node.input(0)
        if data is None or data not in integral:
            return []
        asked = any(v in wanted or (name in _AVERAGES and v in leads) for v in node.outputs)
        return [data] if asked else []
    if name == "Concat" and out in wanted:
        return [v for v in node.inputs if v is not None] if out in integral else []
    if name == "Add" and (out in wanted or out in leads):
        operands = [v for v in node.inputs if v is not None and not v.is_constant]
        return operands if len(operands) == 2 and all(v in integral for v in operands) else []
    return []


def _over_space(node: Node) -> bool:
    """True for a mean over the last axes of an image."""
    data, axes = node.input(0), node.input(1)
    rank = None if data is None else data.tensor.rank
    elements = None if axes is None else static_shape(axes.elements)
    if rank is None or rank < 3 or elements is None:
        return False
    return sorted(a % rank for a in elements) == list(range(2, rank))


def _nearest(node: Node) -> bool:
    return node.is_a("Resize") and node.attr("mode") == "nearest"
