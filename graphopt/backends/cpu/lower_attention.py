"""Attention becomes the step kernel that goes through the keys block by block.

``graphopt::Attention(q, k, v, mask)  ->  graphopt.cpu::attention(q, k, v, mask)``; ONNX's
``Attention`` without caches too, with heads made an axis of their own where they are not.

Sound: the kernel's sums are the op's, in another order; rows that the op clears are cleared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.cpu.ops import native, plan_regions
from graphopt.ir import Builder, Dim, DType, Graph, Node, TensorType, Value
from graphopt.ops.fused import ATTENTION
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit

__all__ = ["LowerAttention"]


@dataclass(frozen=True)
class LowerAttention(Pass):
    """``Attention(q, k, v, mask)  ->  graphopt.cpu::attention(q, k, v, mask)``."""

    name: ClassVar[str] = "cpu-lower-attention"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            if attention_refusal(node) is not None:
                continue
            builder = Builder(graph, before=node, origin=node.origin)
            value = _fused(builder, node) if node.op is ATTENTION else _onnx(builder, node)
            record_edit(ctx.log, self.name, "LowerAttention", [node], builder.created)
            graph.replace(node, [value, *[None] * (len(node.outputs) - 1)])
            changed = True
        return changed


def attention_refusal(node: Node) -> Refusal | None:
    """Why the kernel does not compute ``node``; None when it does."""
    if node.op is not ATTENTION and not node.is_a("Attention"):
        return Refusal("it is no attention", node)
    for value in (*node.inputs[:3], node.output):
        if value is None or value.tensor.dtype is not DType.F32 or value.shape is None:
            return Refusal("it is not in f32, or of a rank that is not known", node)
    mask = node.input(3)
    if mask is not None and (refused := _mask_refusal(node, mask)) is not None:
        return refused
    if node.op is ATTENTION:
        return None
    if any(node.input(i) is not None for i in (4, 5, 6)):
        return Refusal("it has a cache of keys and values", node)
    if any(value.use_count for value in node.outputs[1:]):
        return Refusal("more than its first output is read", node)
    if node.attr("softmax_precision") not in (None, int(DType.F32)):
        return Refusal("its softmax is computed in another type", node)
    return None


def _mask_refusal(node: Node, mask: Value) -> Refusal | None:
    if mask.tensor.dtype not in (DType.F32, DType.BOOL) or mask.shape is None:
        return Refusal("the mask is neither f32 nor bool", mask)
    if len(mask.shape) > 4:
        return Refusal("the mask has more than 4 axes", mask)
    q, k = node.input(0), node.input(1)
    assert q is not None and k is not None and q.shape is not None and k.shape is not None
    heads: Dim = q.shape[1] if len(q.shape) == 4 else int(node.attr("q_num_heads") or 0)
    full = (q.shape[0], heads, q.shape[-2], k.shape[-2])
    for have, want in zip(mask.shape[::-1], full[::-1], strict=False):
        if have not in (1, want):
            return Refusal("the mask does not broadcast to the scores", mask)
    return None


def _call(
    builder: Builder, operands: list[Value | None], type: TensorType, attrs: dict[str, Any]
) -> Value:
    return builder.call(native("attention"), *operands, _types=[type], **attrs).output


def _fused(builder: Builder, node: Node) -> Value:
    attrs: dict[str, Any] = {"scale": float(node.attr("scale"))}
    if node.attr("nan_rows_to_zero"):
        attrs["zero_nan_rows"] = 1
    return _call(builder, list(node.inputs), node.output.tensor, attrs)


def _onnx(builder: Builder, node: Node) -> Value:
    q, k, v = (value for value in node.inputs[:3] if value is not None)
    out = node.output.tensor
    flat = q.tensor.rank == 3
    if flat:
        q = _split(builder, q, int(node.attr("q_num_heads")))
        k, v = (_split(builder, x, int(node.attr("kv_num_heads"))) for x in (k, v))
    # A row that the mask leaves no key is 0 in ONNX.
    attrs: dict[str, Any] = {"zero_masked_rows": 1}
    if node.attr("scale") is not None:
        attrs["scale"] = float(node.attr("scale"))
    if node.attr("softcap"):
        attrs["softcap"] = float(node.attr("softcap"))
    if node.attr("is_causal"):
        attrs["causal"] = 1
    for ours, theirs in (
        ("left_window", "left_window_size"),
        ("right_window", "right_window_size"),
    ):
        if node.attr(theirs) is not None and int(node.attr(theirs)) >= 0:
            attrs[ours] = int(node.attr(theirs))
    assert q.shape is not None and v.shape is not None
    type = TensorType(out.dtype, (*q.shape[:3], v.shape[3]))
    y = _call(builder, [q, k, v, node.input(3)], type, attrs)
    if not flat:
        return y
    joined: Value = builder.Transpose(y, perm=(0, 2, 1, 3))
    back: Value = builder.Reshape(joined, (0, 0, -1))
    return back


def _split(builder: Builder, x: Value, heads: int) -> Value:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    shaped = builder.Reshape(x, (0, 0, heads, -1))
    result: Value = builder.Transpose(shaped, perm=(0, 2, 1, 3))
    return result
