"""The ops of a graph that is lowered for the CPU.

``graphopt.cpu::<kernel>`` is a hand-written step kernel of the runtime; operands and attributes are
the kernel's own. ``graphopt.cpu::view`` renames axes of the same bytes, ``graphopt.cpu::shape``
writes sizes into an integer tensor. ``graphopt.cpu::group`` runs its ``body`` as one generated
kernel; ``kind`` says which emitter makes it.
"""

from __future__ import annotations

from functools import cache

from graphopt.ir import OpDef

__all__ = ["DOMAIN", "GROUP", "SHAPE", "VIEW", "native"]

DOMAIN = "graphopt.cpu"

VIEW = OpDef("view", DOMAIN, inputs=("X",))
SHAPE = OpDef("shape", DOMAIN)
GROUP = OpDef("group", DOMAIN, inputs=("operands*",), outputs=("results*",))


@cache
def native(kernel: str) -> OpDef:
    """The op that runs the step kernel of that name."""
    return OpDef(kernel, DOMAIN, inputs=("operands*",), outputs=("results*",))
