"""Types made more special: what follows from a value whose type is now known better.

A branch or a loop's body that turns out not to fit is replaced by a note of why it cannot run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphopt.errors import OperandError
from graphopt.ir import Dim, Graph, Node, TensorType, Trait, Type, Value, symbols
from graphopt.ops.control import make_impossible

__all__ = ["refine"]


def refine(root: Graph, values: Iterable[Value]) -> None:
    """Infers anew the types of all that depends on ``values``, in ``root`` and its regions.

    Types only become more special: a size that inference cannot name again keeps its name. Raises
    OperandError when a node that runs whenever ``root`` does cannot take its operands.
    """
    _Refiner(root, values).graph(root)


class _Refiner:
    def __init__(self, root: Graph, values: Iterable[Value]) -> None:
        self.root = root
        self.changed = set(values)

    def graph(self, graph: Graph) -> None:
        for node in graph.nodes:
            touched = any(value in self.changed for value in node.inputs)
            for region in node.regions:
                touched |= self.region(node, region)
            if touched and node.op.infer is not None:
                self.infer(node)

    def region(self, node: Node, region: Graph) -> bool:
        """True when what ``region`` yields changed, or that it can run at all."""
        try:
            self.graph(region)
        except OperandError as error:
            # A branch need not be taken, and a loop may run no times at all.
            if not node.op.has(Trait.CONTROL_FLOW):
                raise
            make_impossible(region, str(error), node.origin)
            return True
        return any(value in self.changed for value in region.outputs)

    def infer(self, node: Node) -> None:
        before = set(self.root._symbols)
        graph = node.graph
        label = node.name or node.output.name
        types, elements = graph.infer(node.op, node.inputs, node.attrs, len(node.outputs), label)
        for index, (value, found) in enumerate(zip(node.outputs, types, strict=True)):
            fresh = set(self.root._symbols) - before
            merged = _merge(value.type, found, fresh)
            known = elements.get(index)
            if known is not None and _stale(known, fresh):
                known = None
            if merged != value.type or (known is not None and known != value.elements):
                value.type = merged
                if known is not None:
                    value.set_elements(known)
                self.changed.add(value)


def _stale(dims: Sequence[Dim], fresh: set[str]) -> bool:
    return any(symbols(dim) & fresh for dim in dims)


def _merge(old: Type, new: Type, fresh: set[str]) -> Type:
    """The more special of two types of one value, size by size."""
    if not isinstance(old, TensorType) or not isinstance(new, TensorType):
        return old
    if new.shape is None:
        return old
    if old.shape is None or len(old.shape) != len(new.shape):
        return new
    pairs = zip(old.shape, new.shape, strict=True)
    dims = tuple(a if isinstance(a, int) or symbols(b) & fresh else b for a, b in pairs)
    return TensorType(old.dtype, dims)
