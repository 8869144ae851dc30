"""Rotary embeddings that exporters spell out become one op.

``x * cos + rotated(x) * sin  ->  RotaryEmbedding(x, cos, sin)`` where ``rotated(x)`` is
``Concat(-x[D/2:], x[:D/2])``, or the pairs ``(-x[1::2], x[::2])``, which makes it ``interleaved``;
and ``Concat(a * cos - b * sin, b * cos + a * sin)`` of the halves or pairs a, b.
``Concat(RotaryEmbedding(x[:w]), x[w:])  ->  RotaryEmbedding(x, rotary_embedding_dim=w)``.

``x`` has four axes, in f32 or f64: [batch, heads, length, size] or [batch, length, heads, size],
which the angles tell apart, since heads share them; the latter is transposed before and after.
Angles of the whole size must be the same for both of a pair. The parts may be cut from what ``x``
is cut from.

Sound up to rounding: the definition of the op (Su et al., "RoFormer", 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Dim, DType, Graph, Node, Value
from graphopt.passes.rotary_angles import angles, angles_refusal
from graphopt.rewrite import (
    Match,
    NodePattern,
    Pattern,
    PatternOps,
    Refusal,
    Rule,
    RulePass,
    Var,
)

__all__ = ["FuseRotary"]

_PARTS = ("first", "second")
# Between heads before and behind the length.
_SWAP = (0, 2, 1, 3)


def _part(op: PatternOps, x: Var, index: int) -> Pattern:
    """The first or second half of ``x``, or those of even or odd index."""
    name = _PARTS[index]
    return op.any_of(
        op.Slice(x, op.rest(f"{name}_slice"), _bind=name, _shared=True),
        op.Split(x, op.rest("sizes"), _outputs=2, _bind="split", _shared=True)[index],
        op.Gather(
            op.Reshape(x, op.rest("pairs"), _bind="pairs", _shared=True),
            op.rest(f"{name}_index"),
            _bind=name,
            _shared=True,
        ),
    )


def _joined(op: PatternOps, first: Pattern, second: Pattern) -> list[NodePattern]:
    """Halves side by side, or pairs one by one."""
    stacked = op.Concat(
        op.Unsqueeze(first, op.rest("first_axis")),
        op.Unsqueeze(second, op.rest("second_axis")),
        _bind="concat",
    )
    return [
        op.Concat(first, second, _bind="concat"),
        op.Reshape(stacked, op.rest("shape"), _bind="flat"),
    ]


class _Rotation(Rule):
    """What both spellings share."""

    def check(self, m: Match) -> Refusal | None:
        """Types, which features make a pair, and angles that fit."""
        x, out, whole = m.get("x"), m.root.output, m["whole"]
        if out.tensor.dtype not in (DType.F32, DType.F64):
            return Refusal(lambda: f"it computes in {out.tensor.dtype}", m.root)
        shape = out.shape
        if shape is None or len(shape) != 4 or whole.shape is None or len(whole.shape) != 4:
            return Refusal(lambda: f"{whole!r} or {out!r} has not four axes", whole)
        size = shape[-1]
        if not isinstance(size, int) or size % 2 or size == 0:
            return Refusal(lambda: f"the last axis of {out!r} is not of a fixed even size", m.root)
        if shape[:-1] != whole.shape[:-1] or _offset(m, size) is None:
            return Refusal(lambda: f"{x!r} is not {whole!r} or cut from it", whole)
        refused = _pairing_refusal(m, out, size)
        if refused is not None:
            return refused
        return angles_refusal(out, m["cos"], m["sin"], interleaved="flat" in m.named)

    def rewrite(self, op: Builder, m: Match) -> Value:
        """The op; between transposes where heads do not come first."""
        x, whole, interleaved = m.get("x"), m["whole"], "flat" in m.named
        size = (m.root.output.shape or ())[-1]
        offset = _offset(m, size) if isinstance(size, int) else None
        if x is None and offset is not None:
            x = _cut(op, whole, offset, size)
        assert x is not None
        cos, heads_first = angles(op, x, m["cos"], whole, interleaved=interleaved)
        sin, _ = angles(op, x, m["sin"], whole, interleaved=interleaved)
        x = x if heads_first else op.Transpose(x, perm=_SWAP)
        result: Value = op.RotaryEmbedding(x, cos, sin, interleaved=1 if interleaved else None)
        return result if heads_first else op.Transpose(result, perm=_SWAP)


def _offset(m: Match, size: int) -> int | None:
    """Where what is turned begins along the last axis of ``whole``; None where it is not of it."""
    x, whole = m.get("x"), m["whole"]
    same = whole.shape is not None and whole.shape[-1] == size
    if x is whole or (x is None and same):
        return 0 if same else None
    node = m.named.get("first") if x is None else x.producer
    if node is None or node.op.domain or node.input(0) is not whole:
        return None
    if node.is_a("Split") and x is not None:
        widths = [v.shape[-1] if v.shape else None for v in node.outputs[: x.index]]
        fixed = [width for width in widths if isinstance(width, int)]
        last = int(node.attr("axis")) in (-1, 3)
        return sum(fixed) if last and len(fixed) == len(widths) else None
    found = _sliced(node) if node.is_a("Slice") else None
    if found is None or (x is not None and found[1:] != (1, size)):
        return None
    return found[0]


def _cut(op: Builder, whole: Value, start: int, size: Dim) -> Value:
    """``size`` features of ``whole`` from ``start`` on; ``whole`` where those are all."""
    if whole.shape is not None and whole.shape[-1] == size and start == 0:
        return whole
    assert isinstance(size, int)
    result: Value = op.Slice(whole, [start], [start + size], [3])
    return result


class FuseRotated(_Rotation):
    """``x * cos + rotated(x) * sin  ->  RotaryEmbedding(x, cos, sin)``."""

    def pattern(self, op: PatternOps, x: Var, whole: Var, cos: Var, sin: Var) -> NodePattern:
        """Halves or pairs, rotated by a quarter."""
        second = op.Neg(_part(op, whole, 1))
        rotated = op.any_of(*_joined(op, second, _part(op, whole, 0)))
        return op.Add(op.Mul(x, cos), op.Mul(rotated, sin))


class FuseTurned(_Rotation):
    """``Concat(a * cos - b * sin, b * cos + a * sin)  ->  RotaryEmbedding(x, cos, sin)``."""

    def pattern(self, op: PatternOps, whole: Var, cos: Var, sin: Var) -> list[NodePattern]:
        """Halves or pairs as real and imaginary parts."""
        a, b = _part(op, whole, 0), _part(op, whole, 1)
        real = op.Sub(op.Mul(a, cos), op.Mul(b, sin))
        imaginary = op.Add(op.Mul(b, cos), op.Mul(a, sin))
        return _joined(op, real, imaginary)


def _pairing_refusal(m: Match, x: Value, size: int) -> Refusal | None:
    interleaved = "flat" in m.named
    concat = m.node("concat")
    rank = concat.output.tensor.rank
    if rank is None or int(concat.attr("axis")) not in (-1, rank - 1):
        return Refusal(
            lambda: f"the parts are joined along axis {concat.attr('axis')}, not the last", concat
        )
    if interleaved and concat.output.shape != (*(x.shape or ())[:-1], size // 2, 2):
        return Refusal(lambda: f"{concat.output!r} does not hold pairs of {x!r}", concat)
    if "split" in m.named:
        return _split_refusal(m.node("split"), size, interleaved)
    offset = _offset(m, size)
    assert offset is not None
    for index, name in enumerate(_PARTS):
        node = m.node(name)
        if node.is_a("Gather"):
            refused = _gather_refusal(node, index, size, interleaved)
        else:
            refused = _slice_refusal(node, index, size, interleaved, offset)
        if refused is not None:
            return refused
    return None


def _split_refusal(node: Node, size: int, interleaved: bool) -> Refusal | None:
    widths = [v.shape[-1] if v.shape else None for v in node.outputs]
    last = int(node.attr("axis")) in (-1, 3)
    if interleaved or not last or widths != [size // 2] * 2:
        return Refusal(lambda: f"{node!r} does not split the last axis into halves", node)
    return None


def _slice_refusal(
    node: Node, index: int, size: int, interleaved: bool, offset: int
) -> Refusal | None:
    """``x[index::2]``, or half ``index``, of the ``x`` that begins at ``offset``."""
    wanted = (offset + index, 2) if interleaved else (offset + index * (size // 2), 1)
    if _sliced(node) == (*wanted, size // 2):
        return None
    return Refusal(
        lambda: f"{node!r} does not take every {wanted[1]} from {wanted[0]} along the last axis",
        node,
    )


def _sliced(node: Node) -> tuple[int, int, int] | None:
    """``(start, step, width)`` of a slice of four axes along the last alone."""
    constants = [None if v is None else v.constant for v in node.inputs[1:]]
    width = node.output.shape[-1] if node.output.shape else None
    if len(constants) < 3 or any(c is None or c.numel != 1 for c in constants):
        return None
    start, _, axis, *step = (int(c.array.reshape(-1)[0]) for c in constants if c is not None)
    source = node.input(0)
    size = source.shape[-1] if source is not None and source.shape else None
    if axis not in (-1, 3) or not isinstance(size, int) or not isinstance(width, int):
        return None
    return (start + size if start < 0 else start, step[0] if step else 1, width)


def _gather_refusal(node: Node, index: int, size: int, interleaved: bool) -> Refusal | None:
    """``pairs[..., index]`` of [..., D/2, 2], or ``halves[..., index, :]`` of [..., 2, D/2]."""
    pairs, at = node.input(0), node.input(1)
    assert pairs is not None and at is not None
    shape = (size // 2, 2) if interleaved else (2, size // 2)
    axis = (-1, 4) if interleaved else (-2, 3)
    if at.constant is not None and at.shape == () and pairs.shape is not None:
        size_of = pairs.shape[int(node.attr("axis"))]
        place = int(at.constant.array)
        place = place + 2 if place < 0 else place
        fits = int(node.attr("axis")) in axis and pairs.shape[-2:] == shape and size_of == 2
        if fits and len(pairs.shape) == 5 and place == index:
            return None
    return Refusal(lambda: f"{node!r} does not take part {index} of {shape}", node)


class FuseRest(Rule):
    """``Concat(RotaryEmbedding(x[:w]), x[w:])  ->  RotaryEmbedding(x)`` of width ``w``."""

    def pattern(self, op: PatternOps, x: Var, cos: Var, sin: Var) -> list[NodePattern]:
        """Features that are not turned come after the others."""
        split = op.Split(x, op.rest("sizes"), _outputs=2, _bind="split", _shared=True)
        slices = (
            op.Slice(x, op.rest("first_slice"), _bind="first", _shared=True),
            op.Slice(x, op.rest("second_slice"), _bind="second", _shared=True),
        )
        found = []
        for a, b in (slices, (split[0], split[1])):
            behind = op.RotaryEmbedding(_swapped(op, a, "before"), cos, sin, _bind="rotary")
            for turned in (
                op.RotaryEmbedding(a, cos, sin, _bind="rotary"),
                _swapped(op, behind, "after"),
            ):
                found.append(op.Concat(turned, b, _bind="concat"))
        return found

    def check(self, m: Match) -> Refusal | None:
        """What is turned and what is not must be next to each other in ``x``."""
        x, rotary, whole = m["x"], m.node("rotary"), m.root.output.shape
        shape, first = x.shape, m.node("concat").input(0)
        turned = None if first is None else first.shape
        if shape is None or not turned or not whole or len(shape) != 4 or shape[:-1] != whole[:-1]:
            return Refusal(lambda: f"{x!r} has not four axes, or {m.root.output!r} others", x)
        size, width = whole[-1], turned[-1]
        if not isinstance(size, int) or not isinstance(width, int) or shape[:-1] != turned[:-1]:
            return Refusal(lambda: f"{x!r} is not of a fixed size", x)
        if int(m.node("concat").attr("axis")) not in (-1, 3):
            return Refusal("the parts are not joined along the last axis", m.node("concat"))
        if rotary.attr("rotary_embedding_dim"):
            return Refusal("it turns a part of its features already", rotary)
        if "split" in m.named:
            last = int(m.node("split").attr("axis")) in (-1, 3) and whole == shape
            return None if last else Refusal("it is not split along the last axis", x)
        begin = _begin(m)
        if begin is None:
            return Refusal(lambda: f"{m.node('first')!r} begins nowhere", x)
        return _range_refusal(m.node("first"), begin, width) or _range_refusal(
            m.node("second"), begin + width, size - width
        )

    def rewrite(self, op: Builder, m: Match) -> Value:
        """One op over all features."""
        rotary, width = m.node("rotary"), (m.node("rotary").output.shape or ())[-1]
        behind, size = "after" in m.named, (m.root.output.shape or ())[-1]
        x = m["x"] if "split" in m.named else _cut(op, m["x"], _begin(m) or 0, size)
        result: Value = op.RotaryEmbedding(
            op.Transpose(x, perm=_SWAP) if behind else x,
            m["cos"],
            m["sin"],
            **{**rotary.attrs, "rotary_embedding_dim": width},
        )
        return op.Transpose(result, perm=_SWAP) if behind else result


def _begin(m: Match) -> int | None:
    """Where the first part begins."""
    found = _sliced(m.node("first"))
    return None if found is None else found[0]


def _swapped(op: PatternOps, x: Pattern, name: str) -> NodePattern:
    return op.Transpose(x, _attrs={"perm": lambda perm: tuple(perm or ()) == _SWAP}, _bind=name)


def _range_refusal(node: Node, start: int, width: int) -> Refusal | None:
    if _sliced(node) == (start, 1, width):
        return None
    return Refusal(lambda: f"{node!r} does not take {width} features from {start}", node)


@dataclass(frozen=True)
class FuseRotary(RulePass):
    """Spelled-out rotary embeddings ``->`` RotaryEmbedding."""

    name: ClassVar[str] = "fuse-rotary"

    def rules(self, graph: Graph) -> list[Rule]:
        """Both spellings, then features that are left alone."""
        return [FuseRotated(), FuseTurned(), FuseRest()]
