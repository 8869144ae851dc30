"""A planned kernel: its nests, arguments and cost, in canonical symbols. Needs no tvm."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.codegen.expr import walk
from graphopt.codegen.plan import Nest, build_nests, check_types, cost_of, grain_of
from graphopt.codegen.plan_rows import build_rows, row_nodes
from graphopt.codegen.request import symbol_order
from graphopt.ir import Dim, DType, Graph, Value, product, substitute, sym

__all__ = ["Kernel", "plan_kernel"]


@dataclass(frozen=True)
class Kernel:
    """What is emitted as one function.

    ``arguments`` are (side, position, element type) of the tensors it reads or writes;
    ``numbers`` maps the argument numbers of the nests to positions among them.
    """

    symbol: str
    nests: tuple[Nest, ...]
    tensors: tuple[tuple[str, int, DType], ...]
    numbers: dict[int, int]
    extent: Dim
    grain: int
    flops: Dim
    bytes: Dim

    @property
    def arguments(self) -> tuple[tuple[str, int], ...]:
        """(side, position) of every tensor argument."""
        return tuple((side, k) for side, k, _ in self.tensors)


def plan_kernel(body: Graph, symbol: str) -> Kernel:
    """The kernel of a body. Raises Refusal when it cannot be generated."""
    check_types(body)
    rename: dict[str, Dim] = {n: sym(f"s{i}") for i, n in enumerate(symbol_order(body))}
    nests = _nests(body, rename)
    used = {s.arg for nest in nests for s in nest.stores}
    for nest in nests:
        for expr in walk(nest.roots):
            if expr.op == "load":
                used.add(expr.attr[0])
    count = len(body.inputs)
    tensors: list[tuple[str, int, DType]] = []
    numbers: dict[int, int] = {}
    moved: Dim = 0
    for number, value in enumerate((*body.inputs, *body.outputs)):
        if number in used:
            numbers[number] = len(tensors)
            side = ("input", number) if number < count else ("output", number - count)
            tensors.append((*side, value.tensor.dtype))
            moved = moved + _bytes(value, rename)
    extent: Dim = 0
    flops: Dim = 0
    for nest in nests:
        extent = extent + nest.extent
        flops = flops + product(nest.extents) * round(cost_of(nest.roots, None))
    grain = grain_of(max(nests, key=_elements)) if nests else 1
    return Kernel(symbol, tuple(nests), tuple(tensors), numbers, extent, grain, flops, moved)


def _nests(body: Graph, rename: dict[str, Dim]) -> list[Nest]:
    if row_nodes(body):
        return [build_rows(body, rename)]
    return build_nests(body, rename)


def _elements(nest: Nest) -> int:
    """Elements of a nest, an unknown size taken for a large one."""
    result = 1
    for size in nest.extents:
        result *= size if isinstance(size, int) else 4096
    return result


def _bytes(value: Value, rename: dict[str, Dim]) -> Dim:
    shape = value.tensor.shape or ()
    return product(substitute(d, rename) for d in shape) * value.tensor.dtype.nbytes
