"""ONNX ops that a hand-written step kernel runs as they are.

``TopK(x, k)  ->  graphopt.cpu::top_k(x, k)``: operands and attributes carry over; schema defaults
are written out.

Sound: the kernels have ONNX's semantics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.cpu.ops import native, plan_regions
from graphopt.ir import Constant, DType, Graph, Node, TensorType, Type
from graphopt.ops.control import IMPOSSIBLE
from graphopt.rewrite import Pass, PassContext, record_edit

__all__ = ["NATIVE_KERNELS", "LowerNative"]

NATIVE_KERNELS = {
    "Cast": "cast",
    "Compress": "compress",
    "CumSum": "cum_sum",
    "DequantizeLinear": "dequantize_linear",
    "DynamicQuantizeLinear": "dynamic_quantize_linear",
    "ConvInteger": "conv_integer",
    "Det": "det",
    "EyeLike": "eye_like",
    "GRU": "gru",
    "Gather": "gather",
    "GatherElements": "gather_elements",
    "GatherND": "gather_nd",
    "GridSample": "grid_sample",
    "LSTM": "lstm",
    "MatMulInteger": "matmul_integer",
    "MaxRoiPool": "max_roi_pool",
    "NonMaxSuppression": "non_max_suppression",
    "NonZero": "non_zero",
    "OneHot": "one_hot",
    "QLinearConv": "q_linear_conv",
    "QLinearMatMul": "q_linear_matmul",
    "QuantizeLinear": "quantize_linear",
    "RNN": "rnn",
    "Range": "range",
    "Resize": "resize",
    "ReverseSequence": "reverse_sequence",
    "RoiAlign": "roi_align",
    "ScatterElements": "scatter_elements",
    "ScatterND": "scatter_nd",
    "TopK": "top_k",
    "Trilu": "trilu",
    "Unique": "unique",
}


@dataclass(frozen=True)
class LowerNative(Pass):
    """``Op(x...)  ->  graphopt.cpu::kernel(x...)``."""

    name: ClassVar[str] = "cpu-lower-native"
    follows: ClassVar[tuple[str, ...]] = ("cpu-fuse-groups",)

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was lowered."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
                changed |= _lower_impossible(node, region, ctx, self.name)
            if refusal(node) is not None:
                continue
            new = graph.add(
                native(NATIVE_KERNELS[node.op.name]),
                node.inputs,
                kernel_attrs(node),
                types=[v.type for v in node.outputs],
                names=[v.name for v in node.outputs],
                name=node.name,
                origin=node.origin,
                before=node,
            )
            record_edit(ctx.log, self.name, "LowerNative", [node], [new])
            graph.replace(node, new.outputs)
            changed = True
        return changed


def _lower_impossible(owner: Node, region: Graph, ctx: PassContext, pass_name: str) -> bool:
    """A region that cannot run becomes a step that says why.

    The outputs of a branch are of the types of the If's, which are those of the other branch.
    """
    for node in region:
        if node.op is IMPOSSIBLE:
            new = region.add(
                native("fail"),
                [],
                {"reason": node.attr("reason")},
                types=[v.type for v in (owner if owner.is_a("If") else node).outputs],
                names=[v.name for v in node.outputs],
                origin=node.origin,
                before=node,
            )
            record_edit(ctx.log, pass_name, "LowerImpossible", [node], [new])
            region.replace(node, new.outputs)
            return True
    return False


def kernel_attrs(node: Node) -> dict[str, Any]:
    """All attributes, defaults included, that a step kernel can read."""
    found = {name: node.attr(name) for name in (*node.op.attrs, *node.attrs)}
    return {k: v for k, v in sorted(found.items()) if v is not None}


def refusal(node: Node) -> str | None:
    """Why no step kernel runs the node as it is; None when one does."""
    from graphopt import _native

    kernel = NATIVE_KERNELS.get(node.op.name) if not node.op.domain else None
    if kernel is None or not _native.has_kernel(kernel):
        return f"no kernel runs {node.op.qualified}"
    for value in (*node.inputs, *node.outputs):
        if value is not None and not _plain(value.type):
            return f"%{value.name} is {value.type}"
    if any(isinstance(v, Graph | Constant) for v in node.attrs.values()):
        return "it has a tensor or a graph as an attribute"
    return None


def _plain(type: Type) -> bool:
    return (
        isinstance(type, TensorType) and type.dtype is not DType.STRING and type.shape is not None
    )
