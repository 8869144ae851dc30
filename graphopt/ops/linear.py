"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.ir.dim import Dim, bcast, product
from graphopt.ir.graph import Node
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.infer import broadcast_shapes, require_equal
from graphopt.ops.precision import Array, matmul, narrow, widen
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs, cost_of

__all__ = ["einsum_terms", "matmul_flops", "matmul_shape"]

Shape = tuple[Dim, ...]


def matmul_shape(ctx: InferContext, a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of ``a @ b`` by numpy's rules; None when a rank is unknown."""
    if a is None or b is None:
        return None
    if not a or not b:
        ctx.fail("a matrix product takes no scalars")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    require_equal(ctx, left[-1], right[-2], "the inner sizes of a matrix product differ")
    batch = broadcast_shapes(ctx, [left[:-2], right[:-2]])
    assert batch is not None
    rows = () if len(a) == 1 else (left[-2],)
    columns = () if len(b) == 1 else (right[-1],)
    return (*batch, *rows, *columns)


def _infer_matmul(ctx: InferContext) -> Type:
    a, b = ctx.tensor(0), ctx.tensor(1)
    if a.dtype != b.dtype:
        ctx.fail(f"operand types differ: {a}, {b}")
    return TensorType(a.dtype, matmul_shape(ctx, a.shape, b.shape))


def _evaluate_matmul(ctx: EvalContext, a: Array, b: Array) -> Array:
    return matmul(a, b)


def matmul_flops(node: Node, a: int = 0) -> Dim | None:
    """Two operations for every product: outputs times the inner size of operand ``a``."""
    left = node.inputs[a]
    out = node.output.tensor.numel
    if left is None or left.shape is None or out is None:
        return None
    return 2 * out * left.shape[-1]


def _infer_gemm(ctx: InferContext) -> Type:
    a, b = ctx.tensor(0), ctx.shape(1)
    if a.shape is None or b is None:
        rows, inner = (ctx.fresh("m"), None) if a.shape is None else _oriented(ctx, 0, "transA")
        columns = ctx.fresh("n") if b is None else _oriented(ctx, 1, "transB")[1]
        return TensorType(a.dtype, (rows, columns))
    rows, inner = _oriented(ctx, 0, "transA")
    depth, columns = _oriented(ctx, 1, "transB")
    require_equal(ctx, inner, depth, "the inner sizes of the product differ")
    if ctx.has(2):
        bias = ctx.shape(2)
        if bias is not None and len(bias) > 2:
            ctx.fail(f"operand C has rank {len(bias)}, more than the product's 2")
        broadcast_shapes(ctx, [(rows, columns), bias])
    return TensorType(a.dtype, (rows, columns))


def _oriented(ctx: InferContext, index: int, flag: str) -> tuple[Dim, Dim]:
    shape = ctx.shape(index)
    if shape is None or len(shape) != 2:
        ctx.fail(f"operand {index} must be a matrix, not {ctx.type(index)}")
    return (shape[1], shape[0]) if ctx.attr(flag) else (shape[0], shape[1])


def _evaluate_gemm(ctx: EvalContext, a: Array, b: Array, c: Array | None = None) -> Array:
    left = widen(a.T if ctx.attr("transA") else a)
    right = widen(b.T if ctx.attr("transB") else b)
    y = np.matmul(left, right)
    alpha, beta = ctx.attr("alpha"), ctx.attr("beta")
    if y.dtype.kind in "iu":
        y = _scale_integers(y, alpha)
        return y if c is None else (y + _scale_integers(c, beta)).astype(a.dtype)
    if alpha != 1:
        y = y * y.dtype.type(alpha)
    if c is not None:
        wide = widen(c)
        y = y + (wide if beta == 1 else wide * y.dtype.type(beta))
    return narrow(y, a.dtype)


def _scale_integers(x: Array, factor: float) -> Array:
    return x if factor == 1 else (x * factor).astype(x.dtype)


def _gemm_flops(node: Node) -> Dim | None:
    left, out = node.inputs[0], node.output.tensor.numel
    if left is None or left.shape is None or out is None:
        return None
    return 2 * out * left.shape[0 if node.attr("transA") else 1]


def einsum_terms(equation: str, ranks: list[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of every operand axis, and of the output. Ellipsis axes get labels ``...0`` and on.

    ``...k`` counts from the left of the widest ellipsis, as broadcasting aligns on the right.
    Raises ValueError when the equation does not fit the ranks.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise ValueError(f"equation '{equation}' has {len(terms)} terms for {len(ranks)} operands")
    widths = [
        rank - len(term.replace("...", ""))
        for term, rank in zip(terms, ranks, strict=True)
        if "..." in term
    ]
    widest = max(widths, default=0)
    labels = []
    for term, rank in zip(terms, ranks, strict=True):
        names = _labels(term, rank - len(term.replace("...", "")), widest)
        if len(names) != rank or (min(widths, default=0) < 0):
            raise ValueError(f"term '{term}' of '{equation}' does not fit rank {rank}")
        labels.append(names)
    if arrow:
        return labels, _labels(right, widest, widest)
    flat = [name for names in labels for name in names if not name.startswith("...")]
    once = sorted(name for name in set(flat) if flat.count(name) == 1)
    return labels, [f"...{i}" for i in range(widest)] + once


def _labels(term: str, width: int, widest: int) -> list[str]:
    head, dots, tail = term.partition("...")
    if not dots:
        return list(head)
    return [*head, *(f"...{i}" for i in range(widest - width, widest)), *tail]


def _infer_einsum(ctx: InferContext) -> Type:
    first = ctx.tensor(0)
    shapes = [ctx.shape(i) for i in range(len(ctx.inputs))]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return TensorType(first.dtype, None)
    terms, output = einsum_terms(ctx.attr("equation"), [len(shape) for shape in known])
    sizes: dict[str, Dim] = {}
    for names, shape in zip(terms, known, strict=True):
        for name, dim in zip(names, shape, strict=True):
            sizes[name] = bcast(sizes.get(name, 1), dim)
    unknown = [name for name in output if name not in sizes]
    if unknown:
        ctx.fail(f"the output label '{unknown[0]}' is in no operand")
    return TensorType(first.dtype, tuple(sizes[name] for name in output))


def _evaluate_einsum(ctx: EvalContext, *operands: Array) -> Array:
    terms, output = einsum_terms(ctx.attr("equation"), [x.ndim for x in operands])
    numbers: dict[str, int] = {}
    for name in (name for names in [*terms, output] for name in names):
        numbers.setdefault(name, len(numbers))
    arguments: list[Any] = []
    for x, names in zip(operands, terms, strict=True):
        arguments += [widen(x), [numbers[name] for name in names]]
    y = np.einsum(*arguments, [numbers[name] for name in output], optimize="greedy")
    return narrow(np.asarray(y), operands[0].dtype)


def _einsum_flops(node: Node) -> Dim | None:
    shapes = [value.shape for value in node.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    terms, _ = einsum_terms(node.attr("equation"), [len(shape) for shape in known])
    sizes: dict[str, Dim] = {}
    for names, shape in zip(terms, known, strict=True):
        for name, dim in zip(names, shape, strict=True):
            sizes[name] = bcast(sizes.get(name, 1), dim)
    return len(known) * product(sizes.values())


register(
    OpDef(
        "MatMul",
        inputs=("A", "B"),
        infer=_infer_matmul,
        evaluate=_evaluate_matmul,
        cost=cost_of(matmul_flops),
    ),
    OpDef(
        "Gemm",
        inputs=("A", "B", "C?"),
        attrs=attr_specs(alpha=("f", 1.0), beta=("f", 1.0), transA=("i", 0), transB=("i", 0)),
        infer=_infer_gemm,
        evaluate=_evaluate_gemm,
        cost=cost_of(_gemm_flops),
    ),
    OpDef(
        "Einsum",
        inputs=("Inputs*",),
        outputs=("Output",),
        attrs=attr_specs(equation=("s", REQUIRED)),
        infer=_infer_einsum,
        evaluate=_evaluate_einsum,
        cost=cost_of(_einsum_flops),
    ),
)
