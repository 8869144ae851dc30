"""Values, nodes and graphs: SSA over a linked list of nodes in topological order.

The graph alone keeps use-def chains: operands change only through :class:`Graph` methods, so every
mutation is seen. Insertion, removal and replacement cost O(their own size); iterating while
mutating is safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import ModelError, VerifyError
from graphopt.ir.constant import Constant
from graphopt.ir.dim import Dim, Expr, sym, symbols
from graphopt.ir.journal import Journal
from graphopt.ir.node import Node, Origin, Scope, Use, Value
from graphopt.ir.op import InferContext, OpDef
from graphopt.ir.types import TensorType, Type

__all__ = ["Graph", "Node", "Origin", "Use", "Value"]


class Graph(Scope):
    """A graph of nodes, or a region of one: inputs, nodes in topological order, outputs.

    Values of enclosing graphs are in scope in a region. Names of values are unique over a graph and
    all its regions. ``metadata`` is free text that travels with the model.
    """

    def __init__(self, name: str = "main", parent: Graph | None = None) -> None:
        self.name = name
        self.parent = parent
        self.metadata: dict[str, str] = {}
        self.doc = ""
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._output_names: list[str] = []
        self._constants: dict[str, Value] = {}
        self._head: Node | None = None
        self._tail: Node | None = None
        self._count = 0
        root = self.root
        if root is self:
            self._names: dict[str, int] = {}
            self._node_names: dict[str, int] = {}
            self._symbols: dict[str, int] = {}
            self._journal: Journal | None = None

    # ---- reading ----

    @property
    def root(self) -> Graph:
        """The outermost graph."""
        graph = self
        while graph.parent is not None:
            graph = graph.parent
        return graph

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Inputs, in the order of the interface."""
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Values yielded, in the order of the interface."""
        return tuple(self._outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Interface names of the outputs: they stay when the value behind one is replaced."""
        return tuple(self._output_names)

    @property
    def constants(self) -> Mapping[str, Value]:
        """Constants of this graph by name."""
        return self._constants

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Node]:
        """Nodes in topological order. Nodes erased or inserted meanwhile are handled."""
        node = self._head
        while node is not None:
            if node._graph is self:
                yield node
            node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._tail
        while node is not None:
            if node._graph is self:
                yield node
            node = node._prev

    @property
    def nodes(self) -> tuple[Node, ...]:
        """A snapshot of the nodes, in topological order."""
        return tuple(self)

    def walk(self) -> Iterator[Node]:
        """All nodes, those of nested regions after the node that holds them."""
        for node in self:
            yield node
            for region in node.regions:
                yield from region.walk()

    # ---- the journal ----

    def journal(self, journal: Journal | None) -> None:
        """From now on ``journal``, made for this root graph, notes every change; None: no more."""
        self._journal = journal

    @property
    def journaled(self) -> bool:
        """True while a journal notes the changes."""
        return self.root._journal is not None

    def _noting(self) -> Journal | None:
        """The journal, where it follows this graph."""
        journal = self.root._journal
        return journal if journal is not None and journal.knows(self) else None

    def __str__(self) -> str:
        from graphopt.ir.text import print_graph

        return print_graph(self)

    # ---- names ----

    def fresh_name(self, hint: str = "v") -> str:
        """A value name that is not taken: ``hint``, or ``hint.N``."""
        return _fresh(self.root._names, hint or "v")

    def fresh_node_name(self, hint: str) -> str:
        """A node name that is not taken."""
        return _fresh(self.root._node_names, hint)

    def fresh_symbol(self, hint: str = "u") -> Expr:
        """A symbol that is not taken."""
        return sym(_fresh(self.root._symbols, hint))

    def reserve_symbol(self, name: str) -> Expr:
        """The symbol ``name``, which :meth:`fresh_symbol` then avoids."""
        self.root._symbols.setdefault(name, 0)
        return sym(name)

    # ---- building ----

    def add_input(self, name: str, type: Type, *, rename: bool = False) -> Value:
        """Appends an input. Raises ModelError when the name is taken, unless it may be renamed."""
        value = Value(self.fresh_name(name) if rename else self._claim(name), type, self)
        self._inputs.append(value)
        _reserve_symbols(self, type)
        if journal := self._noting():
            journal.entries.append(("take", journal.regions[self], value.name, type))
        return value

    def add_constant(self, data: Constant | np.ndarray[Any, Any], name: str = "c") -> Value:
        """A constant of this graph, renamed when the name is taken."""
        constant = data if isinstance(data, Constant) else Constant(np.asarray(data))
        value = Value(self.fresh_name(name), constant.type, self, constant=constant)
        value.made_up = value.name != name
        self._constants[value.name] = value
        if journal := self._noting():
            journal.constant(value)
        return value

    def add_output(self, value: Value, name: str | None = None) -> None:
        """Appends an output; ``name`` defaults to the value's."""
        index = len(self._outputs)
        self._outputs.append(value)
        self._output_names.append(name or value.name)
        value._uses[id(self), index] = Use(self, index)
        if journal := self._noting():
            shown = self._output_names[index]
            journal.entries.append(("yield", journal.regions[self], value.name, shown))

    def add(
        self,
        op: OpDef,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        n_outputs: int = 1,
        types: Sequence[Type] | None = None,
        names: Sequence[str] | None = None,
        name: str = "",
        origin: Iterable[str] = (),
        before: Node | None = None,
    ) -> Node:
        """Adds a node at the end, or before ``before``, and infers its output types.

        ``names`` are wanted names of the outputs (made unique). ``types`` skips inference.
        Raises ModelError when the operands do not fit the op.
        """
        attrs = {k: v for k, v in (attrs or {}).items() if v is not None}
        inputs = list(inputs)
        while inputs and inputs[-1] is None and len(inputs) > op.min_inputs:
            inputs.pop()
        elements: dict[int, tuple[Dim, ...]] = {}
        if types is None:
            types, elements = self.infer(op, inputs, attrs, n_outputs, name)
        node = Node(op, inputs, attrs, frozenset(origin), name)
        outputs = []
        for index, type in enumerate(types):
            hint = names[index] if names is not None and index < len(names) else ""
            value_name = self.fresh_name(hint or op.name.lower())
            outputs.append(Value(value_name, type, self, node, index))
            outputs[-1].made_up = value_name != hint
            if index in elements:
                outputs[-1]._elements = elements[index]
            _reserve_symbols(self, type)
        node.outputs = tuple(outputs)
        for index, value in enumerate(inputs):
            if value is not None:
                value._uses[id(node), index] = Use(node, index)
        for region in node.regions:
            region.parent = self
        self._link(node, before)
        if journal := self._noting():
            journal.added(node, before)
        return node

    def infer(
        self,
        op: OpDef,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        n_outputs: int,
        label: str = "",
    ) -> tuple[list[Type], dict[int, tuple[Dim, ...]]]:
        """Output types (and known integer contents) that ``op`` gives for these operands."""
        ctx = InferContext(self, op, inputs, attrs, n_outputs, label)
        if len(inputs) < op.min_inputs or any(inputs[i] is None for i in op.required_inputs):
            ctx.fail(f"it takes at least {op.min_inputs} operands")
        if op.max_inputs is not None and len(inputs) > op.max_inputs:
            ctx.fail(f"it takes at most {op.max_inputs} operands, not {len(inputs)}")
        if op.infer is None:
            ctx.fail("its output types are not known; declare them")
        try:
            result = op.infer(ctx)
        except ModelError:
            raise
        except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            ctx.fail(f"its operands do not fit: {error}")
        types = [result] if not isinstance(result, Sequence) else list(result)
        if len(types) < n_outputs:
            ctx.fail(f"it yields at most {len(types)} outputs, not {n_outputs}")
        return types[:n_outputs], ctx.elements_out

    # ---- changing ----

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Makes ``value`` operand ``index`` of ``node``."""
        if node._graph is not None and (journal := node._graph._noting()):
            shown = None if value is None else value.name
            journal.entries.append(("input", node.outputs[0].name, index, shown))
        self._set_input(node, index, value)

    def _set_input(self, node: Node, index: int, value: Value | None) -> None:
        while len(node._inputs) <= index:
            node._inputs.append(None)
        old = node._inputs[index]
        if old is value:
            return
        if old is not None:
            del old._uses[id(node), index]
        node._inputs[index] = value
        if value is not None:
            value._uses[id(node), index] = Use(node, index)

    def set_output(self, index: int, value: Value) -> None:
        """Makes ``value`` output ``index``; the interface name stays."""
        if journal := self._noting():
            journal.entries.append(("output", journal.regions[self], index, value.name))
        self._set_output(index, value)

    def _set_output(self, index: int, value: Value) -> None:
        old = self._outputs[index]
        if old is value:
            return
        del old._uses[id(self), index]
        self._outputs[index] = value
        value._uses[id(self), index] = Use(self, index)

    def set_attr(self, node: Node, name: str, value: Any) -> None:
        """Sets an attribute, or removes it when ``value`` is None."""
        old = node._attrs.pop(name, None)
        if isinstance(old, Graph) and old is not value:
            old._drop()
        if value is not None:
            node._attrs[name] = value
            if isinstance(value, Graph):
                value.parent = self
        if node._graph is not None and (journal := node._graph._noting()):
            shown = journal.attribute(value)
            journal.entries.append(("attr", node.outputs[0].name, name, shown))

    def replace_all_uses(self, old: Value, new: Value) -> None:
        """Every reader of ``old`` reads ``new`` instead, graph outputs included."""
        if old is new or not old._uses:
            return
        if journal := old.graph._noting():
            journal.entries.append(("uses", old.name, new.name))
        for use in old.uses:
            if isinstance(use.user, Node):
                self._set_input(use.user, use.index, new)
            else:
                use.user._set_output(use.index, new)

    def replace(self, node: Node, values: Sequence[Value | None]) -> None:
        """Readers of the node's outputs read ``values`` instead; the node is erased.

        None is allowed for an output that nobody reads. A new value takes over the old one's name
        when its own was made up, so that names of the source model survive.
        """
        for old, new in zip(node.outputs, values, strict=True):
            if new is not None:
                self.replace_all_uses(old, new)
        self.erase(node)
        for old, new in zip(node.outputs, values, strict=True):
            if new is not None:
                self.take_name(new, old)

    def erase(self, node: Node) -> None:
        """Removes a node. Raises ValueError while an output is still used."""
        if node._graph is not None and (journal := node._graph._noting()):
            self._erase(node)
            journal.entries.append(("erase", node.outputs[0].name))
        else:
            self._erase(node)

    def _erase(self, node: Node) -> None:
        for value in node.outputs:
            if value._uses:
                raise ValueError(f"%{value.name} of {node!r} is still used")
        if node._graph is None:
            raise ValueError(f"{node!r} was erased before")
        for region in node.regions:
            region._drop()
        for index, operand in enumerate(node._inputs):
            if operand is not None:
                del operand._uses[id(node), index]
        node._graph._unlink(node)
        node._graph = None

    def move_before(self, node: Node, anchor: Node | None) -> None:
        """Moves ``node`` right before ``anchor`` in the same graph; to the end for None."""
        if node is anchor or node._next is anchor:
            return
        self._unlink(node)
        self._link(node, anchor)
        if journal := self._noting():
            shown = None if anchor is None else anchor.outputs[0].name
            journal.entries.append(("move", node.outputs[0].name, shown))

    def inline(self, node: Node, region: Graph) -> tuple[Value, ...]:
        """Moves all that ``region`` of ``node`` holds right before ``node``; what it yields.

        The region must take no inputs. Moved nodes take over the origin of ``node``.
        """
        if region._inputs:
            raise ValueError(f"region '{region.name}' takes inputs")
        if journal := self._noting():
            number = journal.regions[region]
            journal.entries.append(("inline", node.outputs[0].name, number))
        for value in region._constants.values():
            value.graph = self
            self._constants[value.name] = value
        region._constants = {}
        for inner in region.nodes:
            region._unlink(inner)
            inner._origin = inner._origin | node._origin
            for value in inner.outputs:
                value.graph = self
            for nested in inner.regions:
                nested.parent = self
            self._link(inner, node)
        return region.outputs

    def erase_constant(self, value: Value) -> None:
        """Removes a constant that nobody reads."""
        if value._uses:
            raise ValueError(f"constant %{value.name} is still used")
        self._forget(value)

    def _forget(self, value: Value) -> None:
        del self._constants[value.name]
        if journal := self._noting():
            journal.entries.append(("drop", value.name))

    def erase_input(self, value: Value) -> None:
        """Removes an input that nobody reads."""
        if value._uses:
            raise ValueError(f"input %{value.name} is still used")
        self._inputs.remove(value)
        if journal := self._noting():
            journal.entries.append(("untake", value.name))

    def remove_dead(self) -> int:
        """Erases nodes and constants whose results nobody reads; returns how many nodes went."""
        removed = 0
        node = self._tail
        while node is not None:
            before = node._prev
            if node._graph is self and not any(value._uses for value in node.outputs):
                self.erase(node)
                removed += 1
            elif node._graph is self:
                for region in node.regions:
                    removed += region.remove_dead()
            node = before
        for value in [v for v in self._constants.values() if not v._uses]:
            self._forget(value)
        return removed

    def reinfer(self, node: Node) -> bool:
        """Infers the node's output types anew; True when one changed."""
        types, elements = self.infer(
            node.op, node._inputs, node._attrs, len(node.outputs), node.name
        )
        changed = False
        for index, (value, type) in enumerate(zip(node.outputs, types, strict=True)):
            new = elements.get(index)
            if value.type != type or (new is not None and value._elements != new):
                value.type = type
                value.set_elements(new)
                changed = True
        return changed

    def rename(self, value: Value, name: str) -> None:
        """Gives the value another name. Raises ModelError when it is taken."""
        if name == value.name:
            return
        claimed = self._claim(name)
        self.root._names.pop(value.name, None)
        if journal := value.graph._noting():
            journal.entries.append(("rename", value.name, name))
        if value.constant is not None and value.name in value.graph._constants:
            del value.graph._constants[value.name]
            value.graph._constants[claimed] = value
        value.name = claimed
        value.made_up = False

    def take_name(self, value: Value, old: Value) -> None:
        """Gives ``value`` the name of ``old``, which left the graph, if its own was made up."""
        if value.made_up and not old.made_up:
            self.root._names.pop(old.name, None)
            self.rename(value, old.name)

    # ---- inside ----

    def _claim(self, name: str) -> str:
        names = self.root._names
        if name in names:
            raise ModelError(f"the value name '{name}' is used twice")
        names[name] = 0
        return name

    def _link(self, node: Node, before: Node | None) -> None:
        node._graph = self
        if before is None:
            node._prev, node._next = self._tail, None
            if self._tail is None:
                self._head = node
            else:
                self._tail._next = node
            self._tail = node
        else:
            if before._graph is not self:
                raise VerifyError(f"{before!r} is not in graph '{self.name}'")
            node._prev, node._next = before._prev, before
            if before._prev is None:
                self._head = node
            else:
                before._prev._next = node
            before._prev = node
        self._count += 1

    def _unlink(self, node: Node) -> None:
        if node._prev is None:
            self._head = node._next
        else:
            node._prev._next = node._next
        if node._next is None:
            self._tail = node._prev
        else:
            node._next._prev = node._prev
        self._count -= 1

    def _drop(self) -> None:
        """Lets go of every value read, when the node that holds this region is erased."""
        for index, value in enumerate(self._outputs):
            value._uses.pop((id(self), index), None)
        for node in list(reversed(self)):
            for value in node.outputs:
                value._uses.clear()
            self._erase(node)


def _fresh(taken: dict[str, int], hint: str) -> str:
    if hint not in taken:
        taken[hint] = 0
        return hint
    count = taken[hint]
    while True:
        count += 1
        name = f"{hint}.{count}"
        if name not in taken:
            taken[hint] = count
            taken[name] = 0
            return name


def _reserve_symbols(graph: Graph, type: Type) -> None:
    if isinstance(type, TensorType) and type.shape is not None:
        for dim in type.shape:
            if not isinstance(dim, int):
                for name in symbols(dim):
                    graph.root._symbols.setdefault(name, 0)
