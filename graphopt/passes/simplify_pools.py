"""Pools that are reductions, pools of pools, and large pools next to smaller ones.

``AveragePool(x)`` whose one window is all of ``x``  ``->  ReduceMean(x)``, and ``MaxPool`` alike;
``MaxPool(MaxPool(x))  ->  MaxPool(x)`` with the windows of both, where that compares no more;
``MaxPool(x, 9)`` next to ``p = MaxPool(x, 5)``, both in steps of 1,  ``->  MaxPool(p, 5)``; a pool
of windows of one element is its operand.

Windows are fixed, start at least at one element of the input, and no indices are read. Sound: a
maximum is taken over the same elements; what the second of two pools pads with is the lowest
number, and elements whose windows reach into the padding of the first are also in the windows of
their neighbours, for steps of 1; for longer steps only padding at the begin is safe. A mean sums in
another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.ir import Builder, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass, Var

__all__ = ["SimplifyPools", "Windows", "windows"]

# How many nodes before a pool another of the same value is looked for.
_NEARBY = 64


@dataclass(frozen=True)
class Windows:
    """Windows of a pool an axis: sizes, steps, padding at begin and end."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def filled(self) -> bool:
        """True when every window has an element of the input."""
        pairs = zip(self.kernel, self.begin, self.end, strict=True)
        return all(begin < k and end < k for k, begin, end in pairs)

    @property
    def size(self) -> int:
        """Elements of one window."""
        count = 1
        for k in self.kernel:
            count *= k
        return count

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of a pool with these windows."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": [*self.begin, *self.end],
        }


def windows(node: Node) -> Windows | Refusal:
    """The windows of a pool without dilation and rounded down, or why they are others."""
    kernel = tuple(int(k) for k in node.attr("kernel_shape"))
    rank = len(kernel)
    if any(d != 1 for d in node.attr("dilations") or ()):
        return Refusal("its windows are dilated", node)
    if node.attr("ceil_mode"):
        return Refusal("its last windows run over the end (ceil_mode)", node)
    if node.attr("auto_pad") not in (None, "", "NOTSET", "VALID"):
        return Refusal(lambda: f"auto_pad is {node.attr('auto_pad')}", node)
    strides = tuple(int(s) for s in node.attr("strides") or (1,) * rank)
    valid = node.attr("auto_pad") == "VALID"
    pads = tuple(int(p) for p in (not valid and node.attr("pads")) or (0,) * (2 * rank))
    if any(len(node.outputs[1:]) and v.use_count for v in node.outputs[1:]):
        return Refusal("its indices are read", node)
    return Windows(kernel, strides, pads[:rank], pads[rank:])


def _results(m: Match, value: Value) -> tuple[Value | None, ...]:
    return (value, *[None] * (len(m.root.outputs) - 1))


class WholePool(Rule):
    """``AveragePool(x, size of x)  ->  ReduceMean(x)``; MaxPool  ``->``  ReduceMax."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Averages and maxima."""
        return [op.AveragePool(x), op.MaxPool(x)]

    def check(self, m: Match) -> Refusal | None:
        """One window that holds all of the input; padding is not counted."""
        found, shape, out = windows(m.root), m["x"].shape, m.root.output.shape
        if isinstance(found, Refusal):
            return found
        if m.root.attr("count_include_pad") and any((*found.begin, *found.end)):
            return Refusal("it counts padding", m.root)
        if shape is None or out is None or any(size != 1 for size in out[2:]):
            return Refusal(lambda: f"{m.root.output!r} has more than one window", m.root)
        held = (k - b for k, b in zip(found.kernel, found.begin, strict=True))
        for size, most in zip(shape[2:], held, strict=True):
            if not isinstance(size, int) or not 0 < size <= most:
                return Refusal(
                    lambda: f"a window of {found.kernel} is not all of {m['x']!r}", m.root
                )
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """A reduction that keeps its axes."""
        axes = tuple(range(2, m["x"].tensor.rank or 2))
        name = "ReduceMax" if m.root.is_a("MaxPool") else "ReduceMean"
        return _results(m, op.op(name, m["x"], axes, keepdims=1))


class DropPool(Rule):
    """``MaxPool(x, 1)  ->  x``; AveragePool alike."""

    def pattern(self, op: PatternOps, x: Var) -> list[NodePattern]:
        """Averages and maxima."""
        return [op.AveragePool(x), op.MaxPool(x)]

    def check(self, m: Match) -> Refusal | None:
        """Windows of one element, at every element."""
        found = windows(m.root)
        if isinstance(found, Refusal):
            return found
        if found.size != 1 or any(s != 1 for s in found.strides):
            return Refusal(lambda: f"windows of {found.kernel}, steps {found.strides}", m.root)
        if any(found.begin) or any(found.end):
            return Refusal("it pads", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """The operand."""
        return _results(m, m["x"])


class MergePools(Rule):
    """``MaxPool(MaxPool(x, k), l)  ->  MaxPool(x, k + (l - 1) * step)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """Two maxima."""
        return op.MaxPool(op.MaxPool(x, _bind="first"))

    def check(self, m: Match) -> Refusal | None:
        """Windows must be filled; merged ones must not cost more."""
        first, second = windows(m.node("first")), windows(m.root)
        if isinstance(first, Refusal):
            return first
        if isinstance(second, Refusal):
            return second
        if not (first.filled and second.filled):
            return Refusal("a window may lie in the padding alone", m.root)
        stepped = [i for i, s in enumerate(first.strides) if s != 1]
        if any(second.end[i] for i in stepped):
            return Refusal("the second pads at the end what the first left out", m.root)
        merged, reads = _merged(first, second), 1
        for step in second.strides:
            reads *= step
        if merged.size > first.size * reads + second.size:
            return Refusal(lambda: f"one window would have {merged.size} elements", m.root)
        return None

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """One pool."""
        first, second = windows(m.node("first")), windows(m.root)
        assert isinstance(first, Windows) and isinstance(second, Windows)
        return _results(m, op.MaxPool(m["x"], **_merged(first, second).attrs))


def _merged(first: Windows, second: Windows) -> Windows:
    def wide(outer: tuple[int, ...], inner: tuple[int, ...]) -> tuple[int, ...]:
        steps = zip(outer, inner, first.strides, strict=True)
        return tuple(a * step + b for a, b, step in steps)

    kernel = wide(tuple(k - 1 for k in second.kernel), first.kernel)
    strides = tuple(a * b for a, b in zip(first.strides, second.strides, strict=True))
    return Windows(kernel, strides, wide(second.begin, first.begin), wide(second.end, first.end))


class ChainPools(Rule):
    """``MaxPool(x, 9)`` next to ``p = MaxPool(x, 5)``  ``->  MaxPool(p, 5)``."""

    def pattern(self, op: PatternOps, x: Var) -> NodePattern:
        """A maximum; smaller ones of the same value are looked for."""
        return op.MaxPool(x)

    def check(self, m: Match) -> Refusal | None:
        """Steps of 1, filled windows, and a smaller pool of the same value above."""
        found = windows(m.root)
        if isinstance(found, Refusal):
            return found
        if any(s != 1 for s in found.strides) or not found.filled:
            return Refusal("its steps are not 1, or a window may lie in the padding alone", m.root)
        best = self._smaller(m, found)
        if best is None:
            return Refusal("no smaller pool of the same value comes before", m.root)
        m.nodes.append(best)
        m.kept.add(best)
        m.named["smaller"] = best
        return None

    def _smaller(self, m: Match, found: Windows) -> Node | None:
        peers = [n for n in m["x"].users if n.is_a("MaxPool") and n is not m.root]
        sizes: dict[Node, int] = {}
        for node in peers:
            other = windows(node)
            if node.graph is m.root.graph and isinstance(other, Windows) and _inside(other, found):
                sizes[node] = other.size
        best = sorted(sizes, key=lambda n: -sizes[n])
        return next((n for n in best if _precedes(n, m.root)), None)

    def rewrite(self, op: Builder, m: Match) -> tuple[Value | None, ...]:
        """What is left of its windows, over the smaller pool."""
        found, smaller = windows(m.root), windows(m.node("smaller"))
        assert isinstance(found, Windows) and isinstance(smaller, Windows)
        left = _left(smaller, found)
        return _results(m, op.MaxPool(m.node("smaller").output, **left.attrs))


def _left(smaller: Windows, found: Windows) -> Windows:
    kernel = tuple(k - s + 1 for k, s in zip(found.kernel, smaller.kernel, strict=True))
    begin = tuple(p - q for p, q in zip(found.begin, smaller.begin, strict=True))
    end = tuple(p - q for p, q in zip(found.end, smaller.end, strict=True))
    return Windows(kernel, found.strides, begin, end)


def _inside(smaller: Windows, found: Windows) -> bool:
    """True when ``found`` is a pool over ``smaller``, of windows that are filled, and smaller."""
    if len(smaller.kernel) != len(found.kernel) or any(s != 1 for s in smaller.strides):
        return False
    left = _left(smaller, found)
    if not smaller.filled or min(left.kernel) < 1 or min(*left.begin, *left.end) < 0:
        return False
    return left.filled and 1 < left.size < found.size


def _precedes(node: Node, other: Node) -> bool:
    """True when ``node`` comes shortly before ``other``."""
    item = other._prev
    for _ in range(_NEARBY):
        if item is None or item is node:
            break
        item = item._prev
    return item is node


@dataclass(frozen=True)
class SimplifyPools(RulePass):
    """Pools ``->`` reductions, and fewer or smaller pools."""

    name: ClassVar[str] = "simplify-pools"

    def rules(self, graph: Graph) -> list[Rule]:
        """Pools that go come first."""
        return [DropPool(), WholePool(), MergePools(), ChainPools()]
