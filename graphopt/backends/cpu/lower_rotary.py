"""Rotary embeddings become a step kernel that reads heads where they lie.

``RotaryEmbedding(x, cos, sin, positions)  ->  graphopt.cpu::rotary_embedding(x, cos, sin,
positions)``. Heads that lie among the features of a projection are read there; for an attention,
which reads them so, they are left among the features.

In f32, of three or four axes, with heads of a fixed size.

Sound: the same products, sums and elements in another place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.cpu.head_views import Heads, read_features, read_heads
from graphopt.backends.cpu.lower_dense import view
from graphopt.backends.cpu.ops import native, plan_regions
from graphopt.ir import Builder, DType, Graph, Node, TensorType, Value
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit

__all__ = ["LowerRotary"]


@dataclass(frozen=True)
class LowerRotary(Pass):
    """``RotaryEmbedding(x, cos, sin)  ->  graphopt.cpu::rotary_embedding(x, cos, sin)``."""

    name: ClassVar[str] = "cpu-lower-rotary"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            if rotary_refusal(node) is not None:
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            value = _lowered(builder, node)
            record_edit(ctx.log, self.name, "LowerRotary", [node], builder.created)
            graph.replace(node, [value])
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why no kernel takes the node."""
        return rotary_refusal(node)


def rotary_refusal(node: Node) -> Refusal | None:
    """Why the kernel does not compute ``node``; None when it does."""
    if not node.is_a("RotaryEmbedding"):
        return Refusal("it is no rotary embedding", node)
    x, cos, sin = node.inputs[:3]
    assert x is not None and cos is not None and sin is not None
    for value in (x, cos, sin):
        if value.tensor.dtype is not DType.F32 or value.shape is None:
            return Refusal(f"{value!r} is not in f32, or of a rank that is not known", value)
    positions = node.input(3)
    wanted = 3 if positions is None else 2
    if cos.tensor.rank != wanted or sin.tensor.rank != wanted:
        return Refusal(f"the angles {cos!r} do not have {wanted} axes", cos)
    if positions is not None and (positions.shape is None or len(positions.shape) != 2):
        return Refusal(f"the positions {positions!r} do not have 2 axes", positions)
    if x.tensor.rank == 3 and _features(node) is None:
        return Refusal(f"the features of {x!r} are not split into fixed sizes", x)
    return None


def _features(node: Node) -> Heads | None:
    x = node.input(0)
    assert x is not None
    if x.tensor.rank == 3:
        return read_features(x, int(node.attr("num_heads") or 0))
    return read_heads(x)


def _lowered(builder: Builder, node: Node) -> Value:
    operands, attrs = list(node.inputs), _attrs(node)
    if len(operands) == 3:
        operands[1:] = [_behind_expand(value) for value in operands[1:]]
    found, out = _features(node), node.output
    if found is not None:
        operands[0] = view(builder, found.source, found.shape)
        attrs |= {"heads": found.heads, "size": found.size}
        attrs |= {"begin": found.begin} if found.begin else {}
        attrs |= {"step": found.step} if found.step != found.size else {}
    type = out.tensor
    joined = _joined(out)
    step = builder.call(
        native("rotary_embedding"), *operands, _types=[joined or type], _name=out.name, **attrs
    )
    if joined is None or type.shape is None:
        return step.output
    batch, heads, length, size = type.shape
    y = view(builder, step.output, (batch, length, heads, size))
    result: Value = builder.Transpose(y, perm=(0, 2, 1, 3))
    return result


def _behind_expand(value: Value | None) -> Value | None:
    """Angles before they are repeated for every batch: the kernel does that itself."""
    node = None if value is None else value.producer
    source = node.input(0) if node is not None and node.is_a("Expand") else None
    if value is None or source is None or not source.shape or not value.shape:
        return value
    same = len(source.shape) == 3 and source.shape == (1, *value.shape[1:])
    return source if same else value


def _attrs(node: Node) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    if node.attr("interleaved"):
        attrs["interleaved"] = 1
    if node.attr("rotary_embedding_dim"):
        attrs["width"] = int(node.attr("rotary_embedding_dim"))
    return attrs


def _joined(out: Value) -> TensorType | None:
    """The type of ``out`` with heads among the features, if its readers want them there."""
    if out.shape is None or len(out.shape) != 4 or out.is_output:
        return None
    batch, heads, length, size = out.shape
    if not isinstance(heads, int) or not isinstance(size, int):
        return None
    users = out.users
    if len(users) == 1 and users[0].is_a("Transpose"):
        if tuple(users[0].attr("perm") or ()) != (0, 2, 1, 3):
            return None
    elif not users or not all(_attends(user, out) for user in users):
        return None
    return TensorType(out.tensor.dtype, (batch, length, heads * size))


def _attends(node: Node, value: Value) -> bool:
    return node.is_a("Attention", node.op.domain) and value in node.inputs[:3]
