"""Emitting a planned kernel as one C function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.ir import PrimType

from graphopt.codegen import machine
from graphopt.codegen.body import Body, Sizes
from graphopt.codegen.cabi import Function
from graphopt.codegen.expr import compute_type
from graphopt.codegen.isa import Isa
from graphopt.codegen.kernel import Kernel
from graphopt.codegen.narrow import emit_narrow
from graphopt.codegen.nest import emit_nest, minimum
from graphopt.codegen.plan import Nest
from graphopt.codegen.rows import emit_rows
from graphopt.codegen.tiles import emit_tiles
from graphopt.codegen.tir import Buffer, Emitter, Val, select
from graphopt.ir import Dim

__all__ = ["emit_kernel"]


def emit_kernel(
    kernel: Kernel, isa: Isa, dims: Sequence[Dim], guard: bool = False
) -> tuple[Function, tuple[Dim, ...]]:
    """The function, and the sizes that it takes as parameters: ``dims`` and what else it needed.

    When it needed more than ``dims``, it is emitted again with all of them. ``guard`` hides every
    stored value from LLVM's search for memcpy and memset.
    """
    while True:
        function, missing = _emit(kernel, Emitter(isa, guard), dims)
        if not missing:
            return function, tuple(dims)
        dims = (*dims, *missing)


def _emitter(nest: Nest) -> Callable[[Body, Nest, Val, Val], None]:
    if nest.rows:
        return emit_rows
    if nest.narrow:
        return emit_narrow
    return emit_tiles if nest.tiled else emit_nest


def _emit(kernel: Kernel, e: Emitter, dims: Sequence[Dim]) -> tuple[Function, list[Dim]]:
    index = PrimType("int64")
    params = []
    declarations = []
    arguments: list[Buffer] = []
    for side, k, dtype in kernel.tensors:
        type = machine.storage_type(dtype, compute_type(dtype))
        buffer, param, statements = e.argument(f"{side}{k}", type)
        arguments.append(buffer)
        params.append(param)
        declarations += statements
    sizes = [tirx.Var(f"dim{k}", index) for k in range(len(dims))]
    begin, end = tirx.Var("begin", index), tirx.Var("end", index)
    table = Sizes({d: Val(v, "int64") for d, v in zip(dims, sizes, strict=True)})
    top = max(kernel.numbers, default=-1) + 1
    buffers = [arguments[kernel.numbers.get(n, 0)] for n in range(top)]
    low, high = Val(begin, "int64"), Val(end, "int64")
    offset: Dim = 0
    for nest in kernel.nests:
        body = Body(e, buffers, table)
        emit = _emitter(nest)
        if len(kernel.nests) == 1:
            emit(body, nest, low, high)
            continue
        shift = table.value(e, offset)
        count = table.value(e, nest.extent)
        first = e.let(low - shift)
        first = e.let(select(first < 0, 0, first))
        stop = e.let(minimum(high - shift, count))
        with e.branch(first < stop):
            emit(body, nest, first, stop)
        offset = offset + nest.extent
    statements = [*declarations, *e.finish()]
    function = Function(kernel.symbol, [*params, *sizes, begin, end], statements)
    return function, table.missing
