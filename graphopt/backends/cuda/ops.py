"""The ops of a graph that is lowered for CUDA.

``graphopt.cuda::product(x, w, ...)`` is an implicit matrix product (``kernels/gemm.cuh`` says
what its numbers mean), ``depthwise``, ``max_pool`` and ``average_pool`` slide a window over
channels-last images, ``attention(q, k, v, mask)`` is itself. Their attribute ``tail``, when they
have one, is the graph of what follows a sum before it is stored: input 0 is the sum, the others are
the node's operands after its own. Groups, views and shapes are those of ``graphopt.cpu``.
"""

from __future__ import annotations

from graphopt.ir import Graph, Node, OpDef, resolve_op

__all__ = ["DOMAIN", "OPERANDS", "SHARED_DOMAIN", "dense", "is_group", "is_view", "op", "tail_of"]

DOMAIN = "graphopt.cuda"
SHARED_DOMAIN = "graphopt.cpu"
# Operands of each op before those of its tail.
OPERANDS = {"product": 2, "depthwise": 2, "max_pool": 1, "average_pool": 1, "attention": 4}


def op(name: str) -> OpDef:
    """The op of that name: the same one that parsing and rules find."""
    return resolve_op(name, DOMAIN)


def dense(node: Node | None) -> bool:
    """True for an op of this domain: each has one output and may have a tail."""
    return node is not None and node.op.domain == DOMAIN


def is_group(node: Node | None) -> bool:
    """True for a group of generated code."""
    return node is not None and (node.op.name, node.op.domain) == ("group", SHARED_DOMAIN)


def is_view(node: Node | None) -> bool:
    """True for a view: other sizes, the same bytes."""
    return node is not None and (node.op.name, node.op.domain) == ("view", SHARED_DOMAIN)


def tail_of(node: Node) -> Graph | None:
    """What follows the sums of a node."""
    found = node.attrs.get("tail")
    return found if isinstance(found, Graph) else None
