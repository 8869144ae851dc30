"""Optional outputs that nobody reads are not asked for.

``y, indices = MaxPool(x)  ->  y = MaxPool(x)``, and so for Dropout, LSTM, LayerNormalization and
whatever else has optional outputs; only the last ones can go.

Sound: an optional output does not change the others. BatchNormalization that trains must have all
of its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Graph, Node
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["TrimOutputs", "needed_outputs"]


@dataclass(frozen=True)
class TrimOutputs(Pass):
    """``y, indices = MaxPool(x)  ->  y = MaxPool(x)``."""

    name: ClassVar[str] = "trim-outputs"
    numerics: ClassVar[Numerics] = EXACT

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node lost outputs."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            count = needed_outputs(node)
            if isinstance(count, Refusal):
                continue
            new = graph.add(
                node.op,
                node.inputs,
                node.attrs,
                types=[value.type for value in node.outputs[:count]],
                name=node.name,
                origin=node.origin,
                before=node,
            )
            record_edit(ctx.log, self.name, "TrimOutputs", [node], [new])
            graph.replace(node, [*new.outputs, *[None] * (len(node.outputs) - count)])
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why ``node`` keeps its outputs."""
        found = needed_outputs(node)
        return found if isinstance(found, Refusal) else None


def needed_outputs(node: Node) -> int | Refusal:
    """How many outputs ``node`` needs, where that is fewer than it has; otherwise why not."""
    have, named = len(node.outputs), node.op.outputs
    if have < 2 or have > len(named) or node.regions:
        return Refusal("it has no optional outputs", node)
    if node.is_a("BatchNormalization") and node.attr("training_mode"):
        return Refusal("it trains", node)
    count = have
    while count > 1 and named[count - 1].endswith("?") and not node.outputs[count - 1].use_count:
        count -= 1
    if count == have:
        return Refusal(f"its last output, {named[have - 1].rstrip('?')}, is needed", node)
    return count
