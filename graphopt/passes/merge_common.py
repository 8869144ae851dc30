"""Common subexpressions: two nodes that compute the same become one.

``y = f(a); z = f(a)  ->  y = f(a)`` and readers of ``z`` read ``y``; in a branch or a loop ``y``
may stand outside of it. Equal constants become one first.

Sound for deterministic ops with equal operands and attributes; the survivor takes over the
origins of both.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar

from graphopt.ir import Constant, Graph, Node, Origin, Trait, Value
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["MergeCommon"]


@dataclass(frozen=True)
class MergeCommon(Pass):
    """``y = f(a); z = f(a)  ->  y = f(a); z = y``."""

    name: ClassVar[str] = "merge-common"
    numerics: ClassVar[Numerics] = EXACT

    # Larger constants are not hashed, which would read all weights: see merge-weights.
    max_constant_bytes: int = 1 << 16

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when nodes or constants were merged."""
        return self._run(graph, ctx, {}, {})

    def _run(
        self,
        graph: Graph,
        ctx: PassContext,
        nodes: MutableMapping[Any, Node],
        constants: MutableMapping[Any, Value],
    ) -> bool:
        """Merges in ``graph`` what is in it, or among ``nodes`` and ``constants`` around it."""
        seen = ChainMap[Any, Node]({}, nodes)
        known = ChainMap[Any, Value]({}, constants)
        merged: dict[Node, list[Origin]] = {}
        changed = self._constants(graph, ctx, known)
        for node in graph:
            for region in node.regions:
                changed |= self._run(region, ctx, seen, known)
            key = self._key(node)
            if key is None:
                continue
            first = seen.setdefault(key, node)
            if first is node:
                continue
            record_edit(ctx.log, self.name, "MergeCommon", [node], [first])
            # Taken over at the end: one of many would grow with each.
            merged.setdefault(first, []).append(node.origin)
            graph.replace(node, first.outputs)
            changed = True
        for first, origins in merged.items():
            first.origin = first.origin.union(*origins)
        return changed

    def _constants(self, graph: Graph, ctx: PassContext, known: MutableMapping[Any, Value]) -> bool:
        changed = False
        for value in list(graph.constants.values()):
            constant = value.constant
            if constant is None or constant.nbytes > self.max_constant_bytes:
                continue
            first = known.setdefault(constant.digest, value)
            if first is not value:
                reason = f"%{value.name} holds what %{first.name} does"
                record_edit(ctx.log, self.name, "MergeConstants", [], [], reason)
                graph.replace_all_uses(value, first)
                graph.erase_constant(value)
                changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """In what the nearest other node of that op differs."""
        if self._key(node) is None:
            return Refusal(lambda: f"{node.op.qualified} is never merged", node)
        first = next((v for v in node.inputs if v is not None), None)
        others = [] if first is None else [u for u in first.users if u.op is node.op]
        twin = next((u for u in others if u is not node and u.graph is node.graph), None)
        if first is None or twin is None:
            return Refusal(lambda: f"no other {node.op.qualified} reads the same operands", first)
        for index, (a, b) in enumerate(zip_longest(node.inputs, twin.inputs)):
            if a is not b:
                return Refusal(f"{twin!r} has another operand {index}", twin)
        for name in sorted({*node.attrs, *twin.attrs}):
            a, b = node.attrs.get(name), twin.attrs.get(name)
            if _attr_key(a) != _attr_key(b):
                return Refusal(f"{twin!r} has {name} = {b}, this {name} = {a}", twin)
        return Refusal(lambda: f"{twin!r} yields other types", twin)

    def _key(self, node: Node) -> Any:
        op = node.op
        if op.has(Trait.NONDETERMINISTIC) or op.opaque or node.regions:
            return None
        operands = [None if v is None else id(v) for v in node.inputs]
        if op.has(Trait.COMMUTATIVE) and len(operands) == 2:
            operands.sort(key=str)
        attrs = []
        for name, value in sorted(node.attrs.items()):
            attrs.append((name, _attr_key(value)))
        types = tuple(str(v.type) for v in node.outputs)
        return (id(op), tuple(operands), tuple(attrs), types)


def _attr_key(value: Any) -> Any:
    if isinstance(value, Constant):
        return value.digest
    if isinstance(value, tuple):
        return tuple(_attr_key(item) for item in value)
    # 1 and 1.0 are equal keys but different attributes; so are 0.0 and -0.0.
    return (type(value).__name__, repr(value))
