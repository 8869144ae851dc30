"""Generated kernels: fused groups of pointwise, reduction, normalisation and movement ops.

:func:`compile_kernels` turns groups into object code of plain C functions, through TVM TIR and
LLVM; :func:`can_emit` says beforehand whether a node can be part of one. tvm is imported only when
something must be compiled that the cache does not hold.
"""

from graphopt.codegen.driver import can_emit, compile_kernels, emit_assembly, emit_text
from graphopt.codegen.expr import Refusal
from graphopt.codegen.isa import LEVELS
from graphopt.codegen.request import CompiledObjects, KernelInfo, KernelRequest
from graphopt.codegen.trace import pointwise_reason

__all__ = [
    "LEVELS",
    "CompiledObjects",
    "KernelInfo",
    "KernelRequest",
    "Refusal",
    "can_emit",
    "compile_kernels",
    "emit_assembly",
    "emit_text",
    "pointwise_reason",
]
