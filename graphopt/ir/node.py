"""Values and nodes. Both are read-only but for the graph that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from graphopt.errors import ModelError
from graphopt.ir.constant import Constant
from graphopt.ir.dim import Dim
from graphopt.ir.op import REQUIRED, OpDef
from graphopt.ir.types import TensorType, Type

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph

__all__ = ["Node", "Origin", "Scope", "Use", "Value"]

Origin = frozenset[str]
# Contents of integer constants up to this many elements are followed as sizes.
_MAX_ELEMENTS = 64


class Scope:
    """What holds nodes: the base of :class:`graphopt.ir.graph.Graph`, which needs this module."""


@dataclass(frozen=True, slots=True)
class Use:
    """One reading of a value: operand ``index`` of a node, or output ``index`` of a graph."""

    user: Node | Graph
    index: int


class Value:
    """An SSA value: the output of a node, an input of a graph, or a constant."""

    __slots__ = (
        "_elements", "_type", "_uses", "constant", "graph", "index", "made_up", "name", "producer",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        type: Type,
        graph: Graph,
        producer: Node | None = None,
        index: int = 0,
        constant: Constant | None = None,
    ) -> None:
        self.name = name
        # True when nobody asked for this very name: it may then be given up for a better one.
        self.made_up = False
        self._type = type
        self.graph = graph
        self.producer = producer
        self.index = index
        self.constant = constant
        self._uses: dict[tuple[int, int], Use] = {}
        self._elements: tuple[Dim, ...] | None = None

    @property
    def type(self) -> Type:
        """Element type and shape, or what else the value is."""
        return self._type

    @type.setter
    def type(self, type: Type) -> None:
        self._type = type
        if journal := self.graph._noting():
            journal.entries.append(("type", self.name, type))

    @property
    def uses(self) -> tuple[Use, ...]:
        """Readings, in the order they were made; those of nested regions included."""
        return tuple(self._uses.values())

    @property
    def use_count(self) -> int:
        """Number of readings."""
        return len(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """Nodes that read the value, each once."""
        found = {id(u.user): u.user for u in self._uses.values() if isinstance(u.user, Node)}
        return tuple(found.values())

    @property
    def is_output(self) -> bool:
        """True when some graph (or region) yields the value."""
        return any(isinstance(use.user, Scope) for use in self._uses.values())

    @property
    def is_constant(self) -> bool:
        """True when the contents are known at compile time."""
        return self.constant is not None

    @property
    def is_input(self) -> bool:
        """True for an input of a graph or region."""
        return self.producer is None and self.constant is None

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's. Raises ModelError."""
        found = self._type
        if not isinstance(found, TensorType):
            raise ModelError(f"value '{self.name}' is {found}, not a tensor")
        return found

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """Shape of the tensor; None when its rank is unknown."""
        return self.tensor.shape

    @property
    def elements(self) -> tuple[Dim, ...] | None:
        """Flattened contents as sizes, for small integer tensors where every one is known."""
        if self._elements is None and self.constant is not None:
            constant = self.constant
            small = constant.numel <= _MAX_ELEMENTS and constant.available
            if small and constant.type.dtype.is_integer:
                self._elements = tuple(int(x) for x in constant.array.ravel())
        return self._elements

    def set_elements(self, dims: Sequence[Dim] | None) -> None:
        """Records what is known of the contents."""
        self._elements = None if dims is None else tuple(dims)
        if journal := self.graph._noting():
            journal.entries.append(("elements", self.name, self._elements))

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operation. Operands and attributes are read-only here: change them through the graph."""

    __slots__ = (
        "_attrs", "_graph", "_inputs", "_next", "_origin", "_prev", "name", "op", "outputs",
    )  # fmt: skip

    def __init__(
        self,
        op: OpDef,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        origin: Origin,
        name: str,
    ) -> None:
        self.op = op
        self.name = name
        self._origin = origin
        self.outputs: tuple[Value, ...] = ()
        self._inputs: list[Value | None] = list(inputs)
        self._attrs = dict(attrs)
        self._graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None

    @property
    def origin(self) -> Origin:
        """Names of the source nodes that the node stands for."""
        return self._origin

    @origin.setter
    def origin(self, origin: Origin) -> None:
        self._origin = origin
        if self._graph is not None and (journal := self._graph._noting()):
            journal.entries.append(("origin", self.outputs[0].name, origin))

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """Operands; None where an optional one is absent."""
        return tuple(self._inputs)

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes that were given; :meth:`attr` adds the schema's defaults."""
        return self._attrs

    @property
    def graph(self) -> Graph:
        """The graph or region that holds the node."""
        if self._graph is None:
            raise ValueError(f"node '{self.name}' was erased")
        return self._graph

    @property
    def erased(self) -> bool:
        """True once the node left its graph."""
        return self._graph is None

    @property
    def regions(self) -> tuple[Graph, ...]:
        """Graphs among the attributes."""
        if not self._attrs:
            return ()
        return tuple([cast("Graph", v) for v in self._attrs.values() if isinstance(v, Scope)])

    def input(self, index: int) -> Value | None:
        """Operand ``index``, None when absent."""
        return self._inputs[index] if index < len(self._inputs) else None

    def attr(self, name: str) -> Any:
        """The attribute, or its schema default."""
        value = self._attrs.get(name)
        if value is not None:
            return value
        spec = self.op.attrs.get(name)
        return None if spec is None or spec.default is REQUIRED else spec.default

    def is_a(self, name: str, domain: str = "") -> bool:
        """True when the node is that op."""
        return self.op.name == name and self.op.domain == domain

    def __repr__(self) -> str:
        outs = ", ".join(f"%{v.name}" for v in self.outputs)
        ins = ", ".join("_" if v is None else f"%{v.name}" for v in self._inputs)
        return f"{outs} = {self.op.qualified}({ins})"
