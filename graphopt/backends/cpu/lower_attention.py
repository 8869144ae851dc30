"""Attention becomes the step kernel that goes through the keys block by block.

``graphopt::Attention(q, k, v, mask)  ->  graphopt.cpu::attention(q, k, v, mask)``; ONNX's
``Attention`` too, with what it caches put in front of its keys and values. Heads that lie among the
features of a projection are read there: transposes before it, and one after it, go.

Sound: the kernel's sums are the op's, in another order; rows that the op clears are cleared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.cpu.head_views import read_features, read_heads
from graphopt.backends.cpu.lower_dense import view
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
            values = [_fused(builder, node)] if node.op is ATTENTION else _onnx(builder, node)
            record_edit(ctx.log, self.name, "LowerAttention", [node], builder.created)
            graph.replace(node, values[: len(node.outputs)])
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why no kernel takes the node."""
        return attention_refusal(node)


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
    if node.input(6) is not None:
        return Refusal("it counts the keys of each batch", node)
    if len(node.outputs) > 3 and node.outputs[3].use_count:
        return Refusal("its scores are read", node)
    if _limits(node) and node.input(4) is not None and not isinstance(_cached(node), int):
        return Refusal(lambda: f"it looks back from behind {_cached(node)} cached keys", node)
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
    full = (q.shape[0], heads, q.shape[-2], k.shape[-2] + _cached(node))
    for have, want in zip(mask.shape[::-1], full[::-1], strict=False):
        # Sizes that are not known are compared in the run.
        if have not in (1, want) and isinstance(have, int) and isinstance(want, int):
            return Refusal("the mask does not broadcast to the scores", mask)
    return None


def _cached(node: Node) -> Dim:
    """How many keys of earlier runs come before its own."""
    past = node.input(4) if node.op is not ATTENTION else None
    return 0 if past is None or past.shape is None else past.shape[2]


def _limits(node: Node) -> bool:
    """True when positions limit what a query sees; the only query of a run sees all before it."""
    windows = [node.attr(f"{side}_window_size") for side in ("left", "right")]
    if any(window is not None and int(window) >= 0 for window in windows):
        return True
    q, k = node.input(0), node.input(1)
    assert q is not None and k is not None and q.shape is not None and k.shape is not None
    return bool(node.attr("is_causal")) and not q.shape[-2] == k.shape[-2] == 1


def _operands(
    builder: Builder, node: Node, attrs: dict[str, Any], inputs: list[Value | None]
) -> list[Value | None]:
    """The kernel's operands, read where they lie; ``attrs`` tell where that is."""
    operands = list(inputs)
    for place, name in enumerate("qkv"):
        value = inputs[place]
        assert value is not None
        if value.tensor.rank == 3:
            heads = int(node.attr("q_num_heads" if name == "q" else "kv_num_heads"))
            found = read_features(value, heads)
            operands[place] = _split(builder, value, heads) if found is None else None
        else:
            found = read_heads(value)
        if found is None:
            continue
        operands[place] = view(builder, found.source, found.shape)
        attrs["heads" if name == "q" else "key_heads"] = found.heads
        attrs["value_size" if name == "v" else "size"] = found.size
        if found.begin:
            attrs[f"{name}_begin"] = found.begin
        if found.step != found.size:
            attrs[f"{name}_step"] = found.step
    return operands


def _split(builder: Builder, x: Value, heads: int) -> Value:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    shaped = builder.Reshape(x, (0, 0, heads, -1))
    result: Value = builder.Transpose(shaped, perm=(0, 2, 1, 3))
    return result


def _call(builder: Builder, node: Node, attrs: dict[str, Any], inputs: list[Value | None]) -> Value:
    """The kernel's result; with heads among the features where its only reader puts them there."""
    operands = _operands(builder, node, attrs, inputs)
    out = node.output
    joined = _joined(out)
    step = builder.call(native("attention"), *operands, _types=[joined or out.tensor], **attrs)
    if joined is None or out.shape is None:
        return step.output
    batch, heads, length, size = out.shape
    # The reader's own transpose undoes this one.
    y = view(builder, step.output, (batch, length, heads, size))
    result: Value = builder.Transpose(y, perm=(0, 2, 1, 3))
    return result


def _fused(builder: Builder, node: Node) -> Value:
    attrs: dict[str, Any] = {"scale": float(node.attr("scale"))}
    if node.attr("nan_rows_to_zero"):
        attrs["zero_nan_rows"] = 1
    if node.attr("softcap"):
        attrs["softcap"] = float(node.attr("softcap"))
    if node.attr("causal"):
        attrs["causal"] = 1
        attrs["causal_offset"] = int(node.attr("causal_offset"))
    mask = node.input(3)
    if mask is not None and mask.tensor.dtype is DType.BOOL:
        attrs["replace"] = 1
        if (fill := float(node.attr("fill"))) != -math.inf:
            attrs["fill"] = fill
    return _call(builder, node, attrs, list(node.inputs[:4]))


def _joined(out: Value) -> TensorType | None:
    """The type of ``out`` with heads among the features, if its only reader puts them there."""
    if out.shape is None or len(out.shape) != 4:
        return None
    batch, heads, length, size = out.shape
    if not isinstance(heads, int) or not isinstance(size, int):
        return None
    perm: tuple[int, ...] = (0, 2, 1, 3)
    reader = _only_reader(out)
    if reader is not None and batch == 1 and reader.output.shape == (heads, length, size):
        # A single batch goes before the transpose.
        reader, perm = _only_reader(reader.output), (1, 0, 2)
    if reader is None or not reader.is_a("Transpose") or tuple(reader.attr("perm") or ()) != perm:
        return None
    return TensorType(out.tensor.dtype, (batch, length, heads * size))


def _only_reader(value: Value) -> Node | None:
    users = value.users
    return users[0] if len(users) == 1 and not value.is_output else None


def _present(builder: Builder, node: Node) -> list[Value]:
    """Keys and values with those of earlier runs before them, [batch, heads, length, size]."""
    found = []
    for place in (1, 2):
        value, past = node.input(place), node.input(place + 3)
        assert value is not None
        if value.tensor.rank == 3:
            value = _split(builder, value, int(node.attr("kv_num_heads")))
        found.append(value if past is None else builder.Concat(past, value, axis=2))
    return found


def _onnx(builder: Builder, node: Node) -> list[Value | None]:
    # A row that the mask leaves no key is 0 in ONNX.
    attrs: dict[str, Any] = {"zero_masked_rows": 1}
    if node.attr("scale") is not None:
        attrs["scale"] = float(node.attr("scale"))
    if node.attr("softcap"):
        attrs["softcap"] = float(node.attr("softcap"))
    if node.attr("is_causal") and _limits(node):
        attrs["causal"] = 1
    if _limits(node) and (cached := _cached(node)):
        attrs["causal_offset"] = cached
    for ours, theirs in (
        ("left_window", "left_window_size"),
        ("right_window", "right_window_size"),
    ):
        if node.attr(theirs) is not None and int(node.attr(theirs)) >= 0:
            attrs[ours] = int(node.attr(theirs))
    inputs, present = list(node.inputs[:4]), []
    if node.input(4) is not None or any(value.use_count for value in node.outputs[1:3]):
        present = _present(builder, node)
        inputs[1:3] = present
    return [_call(builder, node, attrs, inputs), *present, *[None] * (3 - len(present))]
