"""The ops of a graph that is lowered for the CPU.

``graphopt.cpu::<kernel>`` is a hand-written step kernel of the runtime; operands and attributes are
the kernel's own. ``graphopt.cpu::view`` renames axes of the same bytes, ``graphopt.cpu::shape``
writes sizes into an integer tensor. ``graphopt.cpu::group`` runs its ``body`` as one generated
kernel; ``kind`` says which emitter makes it.
"""

from __future__ import annotations

from graphopt.ir import Graph, Node, OpDef, resolve_op

__all__ = ["CONTROL_FLOW", "DOMAIN", "GROUP", "SHAPE", "VIEW", "native", "plan_regions"]

DOMAIN = "graphopt.cpu"

VIEW = OpDef("view", DOMAIN, inputs=("X",))
SHAPE = OpDef("shape", DOMAIN)
GROUP = OpDef("group", DOMAIN, inputs=("operands*",), outputs=("results*",))
# Ops whose regions the plan runs.
CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def plan_regions(node: Node) -> tuple[Graph, ...]:
    """Regions of ``node`` whose nodes are steps of the plan.

    Those of a group are its own business; those of any other op belong to the interpreter, which
    runs that node whole and knows nothing of lowered ops.
    """
    return node.regions if not node.op.domain and node.op.name in CONTROL_FLOW else ()


def native(kernel: str) -> OpDef:
    """The op that runs the step kernel of that name: the same one that parsing and rules find."""
    return resolve_op(kernel, DOMAIN)
