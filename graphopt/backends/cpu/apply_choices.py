"""Tile and share of products that a measurement chose: ``gemm(x, w)  ->  gemm{tile = 3}(x, w)``.

``choices`` holds ``tile1`` to ``tile4`` (panels of the tile) and ``rows`` or ``columns`` (what
threads share out), each with the name of its weights, as in the target option ``choices``. A kernel
takes a tile that its processor lacks for none said.

Sound: every element stays the same sum in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.choices import parse_choices
from graphopt.backends.cpu.ops import DOMAIN, plan_regions
from graphopt.ir import Graph, Node
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["STEP_CHOICES", "ApplyChoices", "weights_name"]

# Attributes of a step by choice. A share is a number: 1 rows, 2 columns.
STEP_CHOICES: dict[str, dict[str, int]] = {
    **{f"tile{panels}": {"tile": panels} for panels in range(1, 5)},
    "rows": {"share": 1},
    "columns": {"share": 2},
}
_PRODUCTS = ("gemm", "conv")
_PACKED = ".packed"


def weights_name(node: Node) -> str:
    """The name that the weights of a step kernel had before they were packed; "" without any."""
    weight = node.input(1)
    if node.op.domain != DOMAIN or weight is None or weight.constant is None:
        return ""
    return weight.name.partition(_PACKED)[0]


@dataclass(frozen=True)
class ApplyChoices(Pass):
    """``gemm(x, w)  ->  gemm{tile = 3}(x, w)``, for the weights that ``choices`` names."""

    name: ClassVar[str] = "cpu-apply-choices"
    follows: ClassVar[tuple[str, ...]] = ("cpu-lower-dense", "cpu-fuse-epilogue")

    choices: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a step was told."""
        wanted = parse_choices(self.choices, STEP_CHOICES)
        changed = False
        for node in _walk(graph):
            if node.op.domain != DOMAIN or node.op.name not in _PRODUCTS:
                continue
            name = weights_name(node)
            attrs: dict[str, Any] = {}
            for choice, names in wanted.items():
                if name in names:
                    attrs |= STEP_CHOICES[choice]
            if not attrs.items() <= node.attrs.items():
                self._replace(node, attrs, ctx)
                changed = True
        return changed

    def _replace(self, node: Node, attrs: dict[str, Any], ctx: PassContext) -> None:
        new = node.graph.add(
            node.op,
            node.inputs,
            {**node.attrs, **attrs},
            types=[value.type for value in node.outputs],
            names=[value.name for value in node.outputs],
            name=node.name,
            origin=node.origin,
            before=node,
        )
        record_edit(ctx.log, self.name, "ApplyChoices", [node], [new])
        node.graph.replace(node, new.outputs)


def _walk(graph: Graph) -> Iterator[Node]:
    for node in graph:
        for region in plan_regions(node):
            yield from _walk(region)
        yield node
