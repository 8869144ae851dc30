"""Products of one value with several constant matrices become one product, split afterwards.

``MatMul(x, a) + p; MatMul(x, b) + q  ->  Split(MatMul(x, [a b]) + [p q])``: the projections of an
attention, gates, heads of a network. Gemm without factors alike.

The matrices have two axes and no other readers; biases are constant rows, of all products or of
none (then they stay). ``readers = "any"`` merges where fewer nodes are left;
``readers = "attention"`` only results that an attention alone reads, head by head: a target that
reads heads where they lie needs no split. ``max_elements`` bounds the merged matrix, where it is
not 0: one that leaves the cache is no faster than its parts. ``keep`` names weights, joined by '+',
whose product, with those that would join it, stays as it is.

Sound: every element is the same sum of products; a kernel may add them in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir import Builder, Constant, Graph, Node, TensorType, Value, static_shape
from graphopt.ops.fused import ATTENTION
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit
from graphopt.rewrite.names import split_names

__all__ = ["MergeProducts"]

_PRODUCTS = ("MatMul", "Gemm")
_Key = tuple[Any, ...]


@dataclass(frozen=True)
class _Branch:
    """A product and the bias that is added to it: what ``end`` is."""

    node: Node
    bias: Value | None
    end: Node

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (self.node,) if self.end is self.node else (self.node, self.end)


@dataclass(frozen=True)
class MergeProducts(Pass):
    """``x @ a; x @ b  ->  Split(x @ [a b])``."""

    name: ClassVar[str] = "merge-products"

    readers: str = "any"
    max_elements: int = 0
    keep: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when products were merged."""
        groups: dict[_Key, list[_Branch]] = {}
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            branch = self._branch(node)
            if isinstance(branch, _Branch):
                groups.setdefault(_key(branch), []).append(branch)
        for branches in groups.values():
            if self._objection(branches) is None:
                self._merge(graph, branches, ctx)
                changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """What keeps a product to itself."""
        branch = self._branch(node)
        if isinstance(branch, Refusal):
            return branch
        x, key = node.input(0), _key(branch)
        assert x is not None
        found = [self._branch(user) for user in x.users]
        alike = [b for b in found if isinstance(b, _Branch) and _key(b) == key]
        objection = self._objection(alike)
        if objection is None:
            return None
        return Refusal(lambda: f"{len(alike)} product(s) of {x!r} are alike: {objection}", node)

    def _branch(self, node: Node) -> _Branch | Refusal:
        branch = _branch(node)
        if isinstance(branch, _Branch) and self.readers == "attention":
            end = branch.end.output
            if not _read_by_heads(end):
                return Refusal(lambda: f"not only attentions read {end!r}", node)
        return branch

    def _objection(self, branches: list[_Branch]) -> str | None:
        """Why branches that are alike are not merged."""
        fewer = len(branches) * len(branches[0].nodes) > len(branches[0].nodes) + 1
        if len(branches) < 2 or not (fewer or self.readers == "attention"):
            return "a split would leave no fewer nodes"
        size = sum(_elements(branch.node) for branch in branches)
        if self.max_elements and size > self.max_elements:
            return f"their matrices have {size} elements, more than {self.max_elements}"
        kept = sorted(_weight_names(branches) & split_names(self.keep))
        return f"'{kept[0]}' is to be kept apart" if kept else None

    def _merge(self, graph: Graph, branches: list[_Branch], ctx: PassContext) -> None:
        nodes = [node for branch in branches for node in branch.nodes]
        origin = frozenset().union(*(node.origin for node in nodes))
        op = Builder(graph, before=branches[0].node, origin=origin)
        first = branches[0].node
        axis = 0 if first.attr("transB") else 1
        weight = op.constant(
            _joined([b.node.input(1) for b in branches], axis), _name(branches, "weight")
        )
        bias = None
        if branches[0].bias is not None:
            bias = op.constant(np.concatenate([_row(b) for b in branches]), _name(branches, "bias"))
        y: Value
        if first.is_a("Gemm"):
            y = op.Gemm(first.input(0), weight, bias, **first.attrs)
        else:
            y = op.MatMul(first.input(0), weight)
            y = y if bias is None else op.Add(y, bias)
        sizes = [_columns(b.node) for b in branches]
        parts = op.Split(y, op.constant(sizes, "sizes"), axis=-1, _outputs=len(sizes))
        record_edit(ctx.log, self.name, "MergeProducts", nodes, op.created)
        for branch, part in zip(branches, parts, strict=True):
            graph.replace(branch.end, [part])
            if branch.end is not branch.node:
                graph.erase(branch.node)


def _branch(node: Node) -> _Branch | Refusal:
    """A product with a constant matrix that nobody else reads, and its bias."""
    if node.op.domain or node.op.name not in _PRODUCTS:
        return Refusal("it is no matrix product", node)
    x, weight = node.input(0), node.input(1)
    assert x is not None and weight is not None
    if weight.constant is None or x.is_constant or len(static_shape(weight.shape) or ()) != 2:
        return Refusal(lambda: f"{weight!r} is no constant matrix", node)
    if weight.use_count != 1:
        return Refusal(lambda: f"{weight!r} has {weight.use_count} readers", node)
    if not x.shape or node.output.shape is None or not node.output.tensor.dtype.is_float:
        return Refusal(lambda: f"it computes {node.output!r}", node)
    if node.is_a("Gemm"):
        return _gemm_branch(node)
    if len(node.output.users) == 1 and not node.output.is_output:
        user = node.output.users[0]
        if user.is_a("Add"):
            bias = next((v for v in user.inputs if v is not node.output), None)
            if _is_row(bias, node) and user.output.shape == node.output.shape:
                return _Branch(node, bias, user)
    return _Branch(node, None, node)


def _gemm_branch(node: Node) -> _Branch | Refusal:
    plain = node.attr("alpha") == 1.0 and node.attr("beta") == 1.0 and not node.attr("transA")
    bias = node.input(2)
    if not plain or (bias is not None and not _is_row(bias, node)):
        return Refusal("it scales, transposes its input, or adds more than a constant row", node)
    return _Branch(node, bias, node)


def _weight_names(branches: list[_Branch]) -> frozenset[str]:
    weights = [branch.node.input(1) for branch in branches]
    return frozenset(weight.name for weight in weights if weight is not None)


def _elements(node: Node) -> int:
    weight = node.input(1)
    assert weight is not None and weight.constant is not None
    return weight.constant.numel


def _columns(node: Node) -> int:
    weight = node.input(1)
    assert weight is not None and weight.shape is not None
    columns = weight.shape[0 if node.attr("transB") else 1]
    assert isinstance(columns, int)
    return columns


def _is_row(bias: Value | None, node: Node) -> bool:
    if bias is None or bias.constant is None:
        return False
    shape = static_shape(bias.shape)
    return bool(shape) and shape[-1] == _columns(node) and set(shape[:-1]) <= {1}  # type: ignore[index]


def _key(branch: _Branch) -> _Key:
    """Equal for branches that one product can stand for."""
    node = branch.node
    weight = node.input(1)
    assert weight is not None
    attrs = tuple(sorted(node.attrs.items()))
    return (id(node.input(0)), node.op.name, attrs, branch.bias is None, weight.tensor.dtype)


def _joined(weights: list[Value | None], axis: int) -> Constant:
    """The matrices side by side; made when they are first read."""
    constants = [w.constant for w in weights if w is not None and w.constant is not None]
    shapes = [c.type.shape or () for c in constants]
    sides = [s[axis] for s in shapes]
    shape = list(shapes[0])
    shape[axis] = sum(side for side in sides if isinstance(side, int))

    def load() -> np.ndarray[Any, Any]:
        return np.concatenate([c.read() for c in constants], axis=axis)

    type = TensorType(constants[0].type.dtype, tuple(shape))
    return Constant(None, type=type, load=load)


def _row(branch: _Branch) -> np.ndarray[Any, Any]:
    assert branch.bias is not None and branch.bias.constant is not None
    return branch.bias.constant.array.reshape(-1)


def _name(branches: list[_Branch], what: str) -> str:
    weight = branches[0].node.input(1) if what == "weight" else branches[0].bias
    assert weight is not None
    return f"{weight.name}.merged"


def _read_by_heads(value: Value) -> bool:
    """True when attentions alone read ``value``, split into heads."""
    return _all_readers(value, _takes_heads)


def _all_readers(value: Value, accepts: Callable[[Value, Node], bool]) -> bool:
    """True when there are readers and ``accepts`` takes all; one that asks for sizes is none."""
    readers = [user for user in value.users if not user.is_a("Shape")]
    return bool(readers) and not value.is_output and all(accepts(value, u) for u in readers)


def _takes_heads(value: Value, node: Node) -> bool:
    if node.is_a("Attention"):
        return value in node.inputs[:3]
    shape = node.output.shape
    if not node.is_a("Reshape") or shape is None or value.shape is None or len(shape) != 4:
        return False
    if shape[:2] != value.shape[:2] or len(value.shape) != 3:
        return False
    return _all_readers(node.output, _takes_transposed)


def _takes_transposed(value: Value, node: Node) -> bool:
    if not node.is_a("Transpose") or tuple(node.attr("perm") or ()) != (0, 2, 1, 3):
        return False
    return _all_readers(node.output, _is_for_attention)


def _is_for_attention(value: Value, node: Node) -> bool:
    """True for an attention that reads the heads ``value``, rotated or not."""
    if node.is_a("RotaryEmbedding"):
        return _all_readers(node.output, _is_for_attention)
    return node.op is ATTENTION and value in node.inputs[:3]
