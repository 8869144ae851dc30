"""Results that only steps on bfloat16 read are stored as bfloat16.

``conv{bf16}(conv(x, w), v)  ->  conv{bf16}(conv(x, w) : bf16, v)``: a product or convolution rounds
its result once, as it stores it, and its readers read half the bytes. A reader that is a product on
bfloat16 would round it anyway and computes the same; a residual and a depthwise convolution compute
in float32 with what was rounded.

Lossy for the latter two, which stay in float32 where layers are excluded: those are models that
have no accuracy to spare. For ``precision=bf16`` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.backends.cpu.ops import DOMAIN, plan_regions
from graphopt.ir import DType, Graph, Node, TensorType
from graphopt.rewrite import Pass, PassContext, Refusal, record_edit
from graphopt.rewrite.names import split_names
from graphopt.rewrite.numerics import Numerics, lossy

__all__ = ["StoreBf16"]

_RESIDUAL = 3
# Activations of a depthwise convolution that run before it stores.
_CLAMPS = frozenset({"none", "relu", "clip"})


@dataclass(frozen=True)
class StoreBf16(Pass):
    """``conv(x, w) : f32  ->  conv(x, w) : bf16``, but for nodes that stand for ``exclude``, names
    of source nodes joined by '+'."""

    name: ClassVar[str] = "cpu-store-bf16"
    follows: ClassVar[tuple[str, ...]] = ("cpu-lower-bf16", "cpu-fuse-epilogue")
    exact: ClassVar[bool] = False
    numerics: ClassVar[Numerics] = lossy(1.5e-2)

    exclude: str = ""

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a result is stored in half its bytes."""
        changed = False
        for node in graph:
            for region in plan_regions(node):
                changed |= self.run(region, ctx)
            if self.refuses(node) is not None:
                continue
            type = TensorType(DType.BF16, node.output.tensor.shape)
            new = graph.add(
                node.op,
                node.inputs,
                node.attrs,
                types=[type],
                names=[node.output.name],
                name=node.name,
                origin=node.origin,
                before=node,
            )
            record_edit(ctx.log, self.name, "StoreBf16", [node], [new])
            graph.replace(node, [new.output])
            changed = True
        return changed

    def refuses(self, node: Node) -> Refusal | None:
        """Why the node's result stays as it is."""
        if not _is(node, "gemm", "conv"):
            return Refusal("it is no product or convolution", node)
        excluded = split_names(self.exclude)
        if kept := sorted(excluded & node.origin):
            return Refusal(f"'{kept[0]}' is excluded", node)
        value = node.output
        if value.tensor.dtype is not DType.F32:
            return Refusal(f"its result is {value.tensor.dtype} already", node)
        channels = int(node.attrs["n" if node.op.name == "gemm" else "cout"])
        if channels % 2:
            return Refusal(f"{channels} channels are odd", node)
        if int(node.attrs.get("group", 1)) != 1:
            if not _depthwise(node) or node.input(_RESIDUAL) is not None:
                return Refusal("it has groups", node)
            if node.attrs.get("activation", "none") not in _CLAMPS:
                return Refusal(f"{node.attrs['activation']} follows in a pass of its own", node)
        if value.is_output:
            return Refusal("its result is an output", node)
        for use in value.uses:
            if not isinstance(use.user, Node) or not _reads(use.user, use.index):
                return Refusal("somebody reads its result as float32", node)
            if excluded and not _rounds(use.user, use.index):
                return Refusal("a reader would lose accuracy, of which others have none left", node)
        return None


def _is(node: Node, *kernels: str) -> bool:
    return node.op.domain == DOMAIN and node.op.name in kernels


def _depthwise(node: Node) -> bool:
    """Whether every channel is a group of its own."""
    attrs = node.attrs
    return _is(node, "conv") and 1 < attrs.get("group", 1) == attrs["cin"] == attrs["cout"]


def _reads(node: Node, place: int) -> bool:
    """Whether the step takes bfloat16 as this operand."""
    if place == 0 and _depthwise(node):
        return True
    if not _is(node, "gemm", "conv") or not node.attrs.get("bf16"):
        return False
    return place == _RESIDUAL or (place == 0 and not node.attrs.get("merged"))


def _rounds(node: Node, place: int) -> bool:
    """Whether the step rounds this operand anyway."""
    return place == 0 and bool(node.attrs.get("bf16"))
