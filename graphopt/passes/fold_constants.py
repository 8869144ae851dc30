"""Constant folding: a node whose operands are all constants becomes its value.

``y = f(c1, c2)  ->  y = const`` when ``f`` is deterministic and the result is not larger than
``max_bytes`` (or than its operands, so that transposed weights fold). Integer results whose
elements are known through shape arithmetic fold too, even where the operands are not constants:
``Gather(Shape(x), 1)`` with a static second axis.

Sound: values come from the ops' semantics of record; a node that fails to evaluate is left alone,
so that its error stays where the model has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.ir import Constant, Dim, DType, Graph, Node, TensorType, Trait, Value, static_shape
from graphopt.ops.interpreter import evaluate_node
from graphopt.rewrite import EXACT, Numerics, Pass, PassContext, Refusal, record_edit

__all__ = ["FoldConstants"]


@dataclass(frozen=True)
class FoldConstants(Pass):
    """``y = f(constants)  ->  y = const``."""

    name: ClassVar[str] = "fold-constants"
    numerics: ClassVar[Numerics] = EXACT

    max_bytes: int = 1 << 20
    # Integers stay quantized for who has kernels for them.
    dequantize: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """True when a node was folded."""
        changed = False
        for node in graph:
            for region in node.regions:
                changed |= self.run(region, ctx)
            results = self._results(node)
            if results is None:
                continue
            record_edit(ctx.log, self.name, "FoldConstants", [node], [])
            values: list[Value | None] = []
            for old, array in zip(node.outputs, results, strict=True):
                if array is None or not old.use_count:
                    values.append(None)
                else:
                    values.append(graph.add_constant(Constant(array), old.name))
            graph.replace(node, values)
            changed = True
        return changed

    def _results(self, node: Node) -> list[np.ndarray[Any, Any] | None] | None:
        from_elements = _known_elements(node)
        if from_elements is not None:
            return from_elements
        if not _foldable(node) or (node.is_a("DequantizeLinear") and not self.dequantize):
            return None
        limit = max(self.max_bytes, sum(_bytes(v) for v in node.inputs))
        if node.is_a("DequantizeLinear"):
            limit *= 8
        if any(_bytes(v) > limit for v in node.outputs):
            return None
        operands = [
            None if v is None or v.constant is None else v.constant.array for v in node.inputs
        ]
        try:
            results = evaluate_node(node, operands)
        except GraphoptError:
            return None
        return _arrays(node, results)

    def refuses(self, node: Node) -> Refusal | None:
        """Which operand is not known, or what else keeps the node."""
        op = node.op
        if op.evaluate is None or op.has(Trait.NONDETERMINISTIC) or op.has(Trait.CONTROL_FLOW):
            return Refusal(lambda: f"{op.qualified} is never computed at compile time", node)
        for value in node.inputs:
            if value is not None and not value.is_constant:
                return Refusal(f"operand %{value.name} is not constant", value)
        if node.is_a("DequantizeLinear") and not self.dequantize:
            return Refusal("its operand stays quantized", node)
        limit = max(self.max_bytes, sum(_bytes(v) for v in node.inputs))
        for value in node.outputs:
            size = _bytes(value)
            if size > limit:
                return Refusal(f"%{value.name} takes {size} bytes, more than {limit}", node)
        return Refusal("evaluating it fails, or gives another type than inferred", node)


def _arrays(node: Node, results: list[Any]) -> list[np.ndarray[Any, Any] | None] | None:
    """What is read of ``results``, None where it is not of the types that were inferred."""
    arrays: list[np.ndarray[Any, Any] | None] = []
    for value, result in zip(node.outputs, results, strict=False):
        array = np.asarray(result) if value.use_count else None
        if array is not None and array.dtype != value.tensor.dtype.numpy:
            return None
        arrays.append(array)
    return arrays if len(arrays) == len(node.outputs) else None


def _foldable(node: Node) -> bool:
    op = node.op
    if op.evaluate is None or op.has(Trait.NONDETERMINISTIC) or op.has(Trait.CONTROL_FLOW):
        return False
    if any(not isinstance(v.type, TensorType) for v in node.outputs):
        return False
    return all(v is None or v.is_constant for v in node.inputs)


def _bytes(value: Value | None) -> int:
    if value is None or not isinstance(value.type, TensorType):
        return 0
    shape = static_shape(value.type.shape)
    if shape is None:
        return 0
    return int(np.prod(shape, dtype=np.int64)) * value.type.dtype.nbytes


def _known_elements(node: Node) -> list[np.ndarray[Any, Any] | None] | None:
    """The value of a single-output node whose elements are all known numbers."""
    if len(node.outputs) != 1 or node.op.has(Trait.CONSTANT):
        return None
    value = node.output
    if not isinstance(value.type, TensorType):
        return None
    # Floats are followed too, but their elements do not tell -0 from +0.
    if not value.type.dtype.is_integer and value.type.dtype is not DType.BOOL:
        return None
    shape = static_shape(value.type.shape)
    if shape is None:
        return None
    elements = value.elements if value.elements is not None else _inferred_now(node)
    if elements is None:
        return None
    numbers = [d for d in elements if isinstance(d, int)]
    if len(numbers) != len(elements) or len(numbers) != int(np.prod(shape)):
        return None
    return [np.array(numbers, dtype=value.type.dtype.numpy).reshape(shape)]


def _inferred_now(node: Node) -> tuple[Dim, ...] | None:
    """Elements that follow from operands which became known since the node was made."""
    op = node.op
    if op.infer is None or op.has(Trait.NONDETERMINISTIC) or op.has(Trait.CONTROL_FLOW):
        return None
    operands = [value for value in node.inputs if value is not None]
    if not operands or any(value.elements is None for value in operands):
        return None
    # Where all are constants it is evaluated.
    if all(value.is_constant for value in operands):
        return None
    try:
        _, elements = node.graph.infer(op, node.inputs, node.attrs, 1)
    except GraphoptError:
        return None
    return elements.get(0)
