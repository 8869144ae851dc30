"""Convolutions around a depthwise one become one step: what lies between them stays in the cache.

``conv 1 x 1(depthwise conv(conv(x)))  ->  conv_chain(x)``, the inverted residual of mobile
networks; so do ``depthwise conv(conv(x))`` and, where much lies between the two,
``conv 1 x 1(depthwise conv(x))``. The step makes a few lines, or a few channels, of the expanded
tensor at a time.

Sound: the same sums in the same order, for each convolution with its own bias and activation.
Nothing is fused into a result that somebody else reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.backends.cpu.ops import DOMAIN, native
from graphopt.ir import Builder, DType, Graph, Node, Value, static_shape
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass

__all__ = ["FuseChains"]

# Bytes of one image that a core keeps anyway: fewer between a depthwise convolution and a product
# are no reason to make both in one step.
_CACHE = 1 << 20
_WINDOW = ("kernel_shape", "strides", "dilations", "pads")
_RESIDUAL = 3


def _is_depthwise(node: Node) -> bool:
    attrs = node.attrs
    return int(attrs.get("group", 1)) == int(attrs["cin"]) == int(attrs["cout"]) > 1


def _is_product(node: Node) -> bool:
    """A 1 x 1 convolution that reads every position."""
    attrs = node.attrs
    ones = (*attrs["kernel_shape"], *attrs["strides"], int(attrs.get("group", 1)))
    return set(ones) == {1} and not any(attrs["pads"])


def _refusal(node: Node) -> str | None:
    """Why the node cannot be part of a chain; None when it can."""
    if node.attrs.get("bf16"):
        return "is on bfloat16"
    values = (node.input(0), node.input(_RESIDUAL), node.output)
    wide = all(v is None or v.tensor.dtype is DType.F32 for v in values)
    if not wide or len(node.attrs["kernel_shape"]) != 2:
        return "is no float32 convolution of images"
    if not _is_depthwise(node) and int(node.attrs.get("group", 1)) != 1:
        return "has groups of several channels"
    return None


class Chain(Rule):
    """``conv(depthwise conv(conv(x)))  ->  conv_chain(x)``."""

    def pattern(self, op: PatternOps) -> Sequence[NodePattern]:
        def conv(*operands: Any) -> NodePattern:
            return op.op("conv", *operands, _domain=DOMAIN)

        two = conv(op.rest("first"))
        return [
            conv(conv(two, op.rest("second")), op.rest("third")),
            conv(two, op.rest("second")),
        ]

    def check(self, m: Match) -> Refusal | None:
        nodes = m.nodes[::-1]
        for node in nodes:
            if (reason := _refusal(node)) is not None:
                return Refusal(f"%{node.output.name} {reason}", node)
        form = [_is_depthwise(node) for node in nodes]
        if form not in ([False, True, False], [True, False], [False, True]):
            return Refusal("not one depthwise convolution among others", m.root)
        depthwise = nodes[form.index(True)]
        if not form[-1] and not _is_product(m.root):
            return Refusal("what follows the depthwise convolution is no 1 x 1 product", m.root)
        if min(depthwise.attrs["pads"]) < 0:
            return Refusal("the depthwise convolution has negative padding", depthwise)
        for node in nodes[:-1]:
            if node.input(_RESIDUAL) is not None:
                return Refusal(f"%{node.output.name} has a residual", node)
        if form == [True, False]:
            return _small(depthwise)
        return _longer(nodes, form)

    def rewrite(self, op: Builder, m: Match) -> Value:
        nodes = m.nodes[::-1]
        expand = None if _is_depthwise(nodes[0]) else nodes[0]
        depthwise = nodes[0] if expand is None else nodes[1]
        project = None if _is_depthwise(m.root) else m.root
        operands: list[Value | None] = [nodes[0].input(0)]
        attrs: dict[str, Any] = {k: depthwise.attrs[k] for k in _WINDOW}
        if expand is not None:
            attrs |= {f"expand_{k}": expand.attrs[k] for k in _WINDOW}
        for node in (expand, depthwise, project):
            operands += [None, None] if node is None else [node.input(1), node.input(2)]
        operands.append(m.root.input(_RESIDUAL))
        stages = [{} if n is None else n.attrs for n in (expand, depthwise, project)]
        attrs |= {
            "cin": nodes[0].attrs["cin"],
            "channels": depthwise.attrs["cout"],
            "cout": m.root.attrs["cout"],
            "activations": tuple(str(s.get("activation", "none")) for s in stages),
            "alphas": tuple(float(s.get("alpha", 0.0)) for s in stages),
            "betas": tuple(float(s.get("beta", 0.0)) for s in stages),
        }
        if project is not None:
            attrs["projects"] = 1
        if m.root.attrs.get("residual_after"):
            attrs["residual_after"] = 1
        out = m.root.output
        return op.call(
            native("conv_chain"), *operands, _types=[out.tensor], _name=out.name, **attrs
        ).output


def _small(depthwise: Node) -> Refusal | None:
    """A pair without a tensor that grows before it must at least save traffic to memory."""
    shape = static_shape((depthwise.output.shape or ("?",))[1:])
    if shape is None:
        return Refusal("how much lies between the two is not known", depthwise)
    size = 4 * math.prod(shape)
    if size < _CACHE:
        return Refusal(f"{size} bytes between the two stay in the cache anyway", depthwise)
    return None


def _longer(nodes: list[Node], form: list[bool]) -> Refusal | None:
    """A pair that is part of a chain of three waits for it."""
    root = nodes[-1]
    if form != [False, True] or root.output.is_output or root.output.use_count != 1:
        return None
    reader = root.output.users[0]
    if reader.op is not root.op or reader.input(0) is not root.output:
        return None
    if _refusal(reader) is not None or _is_depthwise(reader) or not _is_product(reader):
        return None
    if root.input(_RESIDUAL) is not None:
        return None
    return Refusal("a chain of three takes it", reader)


@dataclass(frozen=True)
class FuseChains(RulePass):
    """Makes chains of convolutions around a depthwise one."""

    name: ClassVar[str] = "cpu-fuse-chains"
    follows: ClassVar[tuple[str, ...]] = ("cpu-lower-dense", "cpu-fuse-epilogue")

    def rules(self, graph: Graph) -> list[Rule]:
        return [Chain()]
