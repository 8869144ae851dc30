"""The plan: the JSON that the runtime executes, from a LOWERED graph.

Its grammar is documented in docs/artifact.md. Values and sizes are numbered in the order in which
they are met, so equal graphs give equal text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphopt.backends.base import Compiled
from graphopt.errors import CompileError
from graphopt.ir import (
    Constant,
    Dim,
    DType,
    Expr,
    Graph,
    Node,
    TensorType,
    Value,
    clone,
    copy_nodes,
    print_graph,
    sym,
    symbols,
)

__all__ = [
    "KernelCall",
    "Plan",
    "PlanBuilder",
    "bound_symbols",
    "interpret",
    "interpreted",
    "new_symbols",
    "symbols_of",
]

PLAN_VERSION = 1
_ALIGN = 64
# Ops of this domain are step kernels of the runtime, or group, view and shape.
_NATIVE_DOMAIN = "graphopt.cpu"
# Constants above this many elements are operands of a host step, not part of its text.
_HOST_INLINE = 16


class KernelCall(Protocol):
    """How a generated kernel is called (``graphopt.codegen.KernelInfo``)."""

    @property
    def symbol(self) -> str: ...
    @property
    def args(self) -> Sequence[Value]: ...
    @property
    def dims(self) -> Sequence[Dim]: ...
    @property
    def extent(self) -> Dim: ...
    @property
    def grain(self) -> int: ...


@dataclass
class Plan:
    """The plan's JSON, the weights (constants and padding) in order, and the graphs that the host
    runs."""

    document: dict[str, Any]
    weights: list[Any]
    host_nodes: list[str]

    def to_json(self) -> bytes:
        """The canonical text."""
        return json.dumps(self.document, separators=(",", ":"), sort_keys=True).encode()


class _Dims:
    """The table of size expressions; sub-expressions are shared."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        self.slots = slots
        self.table: list[Any] = []
        self.index: dict[Any, int] = {}

    def __call__(self, dim: Dim) -> int:
        found = self.index.get(dim)
        if found is None:
            found = self._number(dim) if isinstance(dim, int) else self._sum(dim)
            self.index[dim] = found
        return found

    def _add(self, key: Any, entry: Any) -> int:
        found = self.index.get(key)
        if found is None:
            found = self.index[key] = len(self.table)
            self.table.append(entry)
        return found

    def _number(self, value: int) -> int:
        return self._add(value, value)

    def _op(self, kind: str, a: int, b: int) -> int:
        return self._add((kind, a, b), [kind, a, b])

    def _sum(self, expr: Expr) -> int:
        total: int | None = None
        for monomial, coefficient in expr.terms:
            term: int | None = None
            for atom, power in monomial:
                for _ in range(power):
                    factor = self._atom(atom)
                    term = factor if term is None else self._op("*", term, factor)
            if term is None:
                term = self._number(coefficient)
            elif coefficient != 1:
                term = self._op("*", term, self._number(coefficient))
            total = term if total is None else self._op("+", total, term)
        assert total is not None
        return total

    def _atom(self, atom: tuple[object, ...]) -> int:
        kind = str(atom[0])
        if kind == "sym":
            return self._add(("sym", atom[1]), {"sym": self.slots[str(atom[1])]})
        operands = [self(x) for x in atom[1:] if isinstance(x, int | Expr)]
        return self._add((kind, *operands), [kind, *operands])


class PlanBuilder:
    """Builds the plan of one graph. ``kernel_of(node)`` tells how a group's kernel is called."""

    def __init__(self, graph: Graph, kernel_of: Callable[[Node], KernelCall]) -> None:
        self.graph = graph
        self.kernel_of = kernel_of
        self.slots: dict[str, int] = {}
        self.dims = _Dims(self.slots)
        self.values: list[dict[str, Any]] = []
        self.ids: dict[Value, int] = {}
        self.constants: dict[int, tuple[int, int]] = {}
        self.weights: list[Any] = []
        self.offset = 0
        self.host_nodes: list[str] = []

    def build(self, objects: Mapping[str, str]) -> Plan:
        """The plan. ``objects`` maps ISA levels to members with object code."""
        bound = bound_symbols(self.graph)
        for value in self.graph.inputs:
            for name in symbols_of(value):
                if name not in bound:
                    raise CompileError(f"no axis of an input is '{name}' alone: it cannot be bound")
        for name in sorted(bound):
            self._slot(name)
        for value in self.graph.inputs:
            self._value(value, "input")
        steps = self._steps(self.graph, bound)
        outputs = [
            {"name": name, "value": self._id(value)}
            for value, name in zip(self.graph.outputs, self.graph.output_names, strict=True)
        ]
        document = {
            "version": PLAN_VERSION,
            "symbols": list(self.slots),
            "dims": self.dims.table,
            "values": self.values,
            "inputs": [self.ids[value] for value in self.graph.inputs],
            "outputs": outputs,
            "steps": steps,
            "objects": dict(objects),
        }
        return Plan(document, self.weights, self.host_nodes)

    # ---- values ----

    def _slot(self, name: str) -> int:
        return self.slots.setdefault(name, len(self.slots))

    def _id(self, value: Value | None) -> int | None:
        if value is None:
            return None
        if value not in self.ids:
            if value.constant is None:
                raise CompileError(f"%{value.name} is read before a step computes it")
            self._constant(value, value.constant)
        return self.ids[value]

    def _value(self, value: Value, kind: str, **more: Any) -> int:
        type = value.tensor
        if type.shape is None:
            raise CompileError(f"the rank of %{value.name} is not known")
        self.ids[value] = len(self.values)
        self.values.append(
            {
                "name": value.name,
                "dtype": int(type.dtype),
                "shape": [self.dims(dim) for dim in type.shape],
                "kind": kind,
                **more,
            }
        )
        return self.ids[value]

    def _constant(self, value: Value, constant: Constant) -> None:
        where = self.constants.get(id(constant))
        if where is None:
            padding = -self.offset % _ALIGN
            if padding:
                self.weights.append(bytes(padding))
            self.offset += padding
            where = self.constants[id(constant)] = (self.offset, constant.nbytes)
            self.weights.append(constant)
            self.offset += constant.nbytes
        self._value(value, "constant", offset=where[0], nbytes=where[1])

    # ---- steps ----

    def _steps(self, graph: Graph, bound: set[str]) -> list[dict[str, Any]]:
        steps: list[dict[str, Any]] = []
        for node in graph:
            fresh = new_symbols(node, bound)
            for name in sorted(fresh):
                self._slot(name)
            step = self._step(node, bound)
            step["name"] = node.name or "+".join(sorted(node.origin)[:3])
            binds = _binds(node, fresh)
            if binds:
                step["binds"] = [[k, axis, self.slots[name]] for k, axis, name in binds]
            bound |= fresh
            steps.append(step)
        return steps

    def _step(self, node: Node, bound: set[str]) -> dict[str, Any]:
        if node.op.domain == _NATIVE_DOMAIN:
            if node.op.name == "group":
                return self._object(node)
            if node.op.name == "view":
                source = self._id(node.inputs[0])
                return {"kind": "view", "input": source, "output": self._outputs(node)[0]}
            if node.op.name == "shape":
                dims = [self.dims(dim) for dim in node.attrs["dims"]]
                return {"kind": "shape", "dims": dims, "output": self._outputs(node)[0]}
            return self._native(node)
        if node.is_a("If"):
            return self._if(node, bound)
        if node.is_a("Loop"):
            return self._loop(node, bound)
        if node.is_a("Scan"):
            return self._scan(node, bound)
        return self._host(node)

    def _inputs(self, values: Iterable[Value | None]) -> list[int | None]:
        return [self._id(value) for value in values]

    def _outputs(self, node: Node) -> list[int]:
        return [self._value(value, "temp") for value in node.outputs]

    def _object(self, node: Node) -> dict[str, Any]:
        call = self.kernel_of(node)
        outputs = set(node.outputs)
        for value in node.outputs:
            self._value(value, "temp")
        return {
            "kind": "object",
            "symbol": call.symbol,
            "args": self._inputs(call.args),
            "writes": [i for i, value in enumerate(call.args) if value in outputs],
            "dims": [self.dims(dim) for dim in call.dims],
            "extent": self.dims(call.extent),
            "grain": call.grain,
        }

    def _native(self, node: Node) -> dict[str, Any]:
        return {
            "kind": "native",
            "kernel": node.op.name,
            "inputs": self._inputs(node.inputs),
            "outputs": self._outputs(node),
            "attrs": {key: self._attr(value) for key, value in sorted(node.attrs.items())},
        }

    def _attr(self, value: Any) -> Any:
        if isinstance(value, Expr):
            return {"dim": self.dims(value)}
        if isinstance(value, tuple | list):
            if any(isinstance(item, Expr) for item in value):
                return {"dims": [self.dims(item) for item in value]}
            return [self._attr(item) for item in value]
        if isinstance(value, bool | np.integer):
            return int(value)
        if isinstance(value, int | float | str):
            return value
        raise CompileError(f"an attribute of type {type(value).__name__} cannot go into a plan")

    def _host(self, node: Node) -> dict[str, Any]:
        graph, operands = _single_node(node)
        self.host_nodes.append(print_graph(graph, inline_elements=None))
        return {
            "kind": "host",
            "node": len(self.host_nodes) - 1,
            "inputs": [self._host_operand(operand) for operand in operands],
            "outputs": self._outputs(node),
        }

    def _host_operand(self, operand: Value | Constant) -> int | None:
        if isinstance(operand, Value):
            return self._id(operand)
        holder = Graph("constants").add_constant(operand, "host_constant")
        return self._id(holder)

    def _region(self, region: Graph, bound: set[str]) -> list[dict[str, Any]]:
        return self._steps(region, bound)

    def _if(self, node: Node, bound: set[str]) -> dict[str, Any]:
        cond = self._id(node.inputs[0])
        branches: dict[str, Any] = {}
        for key, attr in (("then", "then_branch"), ("else", "else_branch")):
            region = node.attrs[attr]
            branches[key] = self._region(region, set(bound))
            branches[f"{key}_results"] = self._inputs(region.outputs)
        return {"kind": "if", "cond": cond, **branches, "outputs": self._outputs(node)}

    def _loop(self, node: Node, bound: set[str]) -> dict[str, Any]:
        body: Graph = node.attrs["body"]
        carried = len(node.inputs) - 2
        head = {
            "trip": self._id(node.inputs[0]),
            "cond": self._id(node.inputs[1]),
            "carried_in": self._inputs(node.inputs[2:]),
        }
        inner = bound | self._bind_inputs(body.inputs, bound)
        ids = [self._value(value, "temp") for value in body.inputs]
        steps = self._region(body, inner)
        return {
            "kind": "loop",
            **head,
            "iter": ids[0],
            "cond_in": ids[1],
            "carried": ids[2:],
            "body": steps,
            "cond_out": self._id(body.outputs[0]),
            "carried_out": self._inputs(body.outputs[1 : 1 + carried]),
            "scan_out": self._inputs(body.outputs[1 + carried :]),
            "outputs": self._outputs(node),
        }

    def _scan(self, node: Node, bound: set[str]) -> dict[str, Any]:
        body: Graph = node.attrs["body"]
        scans = int(node.attrs["num_scan_inputs"])
        states = len(node.inputs) - scans
        outs = len(body.outputs) - states
        head = {
            "carried_in": self._inputs(node.inputs[:states]),
            "scan_in": self._inputs(node.inputs[states:]),
        }
        inner = bound | self._bind_inputs(body.inputs, bound)
        ids = [self._value(value, "temp") for value in body.inputs]
        steps = self._region(body, inner)
        lists = {
            "in_axes": ("scan_input_axes", scans),
            "in_directions": ("scan_input_directions", scans),
            "out_axes": ("scan_output_axes", outs),
            "out_directions": ("scan_output_directions", outs),
        }
        return {
            "kind": "scan",
            **head,
            "carried": ids[:states],
            "scan_slice": ids[states:],
            "body": steps,
            "carried_out": self._inputs(body.outputs[:states]),
            "scan_out": self._inputs(body.outputs[states:]),
            "outputs": self._outputs(node),
            **{k: list(node.attrs.get(a) or [0] * n) for k, (a, n) in lists.items()},
        }

    def _bind_inputs(self, values: Sequence[Value], bound: set[str]) -> set[str]:
        """Symbols that inputs of a loop body bring: the runtime binds them each iteration."""
        fresh: set[str] = set()
        for value in values:
            fresh |= symbols_of(value) - bound
        for name in sorted(fresh):
            self._slot(name)
        return fresh


def symbols_of(value: Value) -> set[str]:
    """Symbols in the shape of a value."""
    found: set[str] = set()
    if isinstance(value.type, TensorType):
        for dim in value.type.shape or ():
            found |= symbols(dim)
    return found


def _binds(node: Node, fresh: set[str]) -> list[tuple[int, int, str]]:
    """(output, axis, symbol) for each fresh symbol, where it stands alone."""
    result: list[tuple[int, int, str]] = []
    left = set(fresh)
    for index, value in enumerate(node.outputs):
        for axis, dim in enumerate(value.tensor.shape or ()):
            name = str(dim)
            if not isinstance(dim, int) and dim.is_symbol and name in left:
                left.discard(name)
                result.append((index, axis, name))
    if left:
        raise CompileError(f"{node!r}: no output axis is '{min(left)}' alone: it cannot be bound")
    return result


def _operands_and_captures(node: Node) -> list[Value]:
    """Distinct values that a node reads, its regions included, in order."""
    found: dict[Value, None] = {v: None for v in node.inputs if v is not None}

    def visit(region: Graph, inside: set[Value]) -> None:
        inside = inside | set(region.inputs) | set(region.constants.values())
        for inner in region:
            for value in inner.inputs:
                if value is not None and value not in inside:
                    found.setdefault(value)
            for nested in inner.regions:
                visit(nested, inside)
            inside.update(inner.outputs)
        for value in region.outputs:
            if value not in inside:
                found.setdefault(value)

    for region in node.regions:
        visit(region, set())
    return list(found)


def _single_node(node: Node) -> tuple[Graph, list[Value | Constant]]:
    """A graph that holds this node alone, and what its inputs are."""
    operands: list[Value | Constant] = list(_operands_and_captures(node))
    graph = Graph("host")
    mapping: dict[Value, Value] = {}
    for value in operands:
        assert isinstance(value, Value)
        mapping[value] = graph.add_input(value.name, value.type)
    copy_nodes([node], graph, mapping)
    for value in node.outputs:
        graph.add_output(mapping[value])
    return graph, operands + _hoist_constants(graph)


def _hoist_constants(graph: Graph) -> list[Value | Constant]:
    """Makes every large constant, those of regions included, an input of ``graph``."""
    regions = [graph, *(region for node in graph.walk() for region in node.regions)]
    hoisted: list[Value | Constant] = []
    for region in regions:
        for value in list(region.constants.values()):
            constant = value.constant
            assert constant is not None
            if constant.numel <= _HOST_INLINE or constant.type.dtype is DType.STRING:
                continue
            new = graph.add_input(f"{value.name}.host", value.type, rename=True)
            graph.replace_all_uses(value, new)
            region.erase_constant(value)
            hoisted.append(constant)
    return hoisted


def interpreted(graph: Graph) -> Plan:
    """A plan of one step: the reference interpreter runs the whole graph.

    Raises CompileError when an input or output is not a tensor with a flat form.
    """
    for value in (*graph.inputs, *graph.outputs):
        if not isinstance(value.type, TensorType) or value.type.dtype is DType.STRING:
            raise CompileError(f"'{value.name}' is {value.type}: artifacts hold plain tensors")
        if value.type.shape is None:
            raise CompileError(f"the rank of '{value.name}' is not known")
    whole = clone(graph)
    builder = PlanBuilder(graph, _no_kernel)
    bound = bound_symbols(graph)
    for name in sorted(bound):
        builder._slot(name)
    ids: list[int | None] = [builder._value(value, "input") for value in graph.inputs]
    count = len(graph.inputs)
    ids += [builder._host_operand(constant) for constant in _hoist_constants(whole)]
    outputs, binds = [], []
    for k, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        shape: list[Dim] = []
        for axis, dim in enumerate(value.tensor.shape or ()):
            if symbols(dim) <= bound:
                shape.append(dim)
                continue
            symbol = f"out{k}_{axis}"
            builder._slot(symbol)
            shape.append(sym(symbol))
            binds.append([k, axis, builder.slots[symbol]])
        result = Value(f"{name}.result", TensorType(value.tensor.dtype, tuple(shape)), graph)
        outputs.append({"name": name, "value": builder._value(result, "temp")})
    step: dict[str, Any] = {
        "kind": "host",
        "node": 0,
        "inputs": ids,
        "outputs": [item["value"] for item in outputs],
        "name": graph.name,
    }
    if binds:
        step["binds"] = binds
    document = {
        "version": PLAN_VERSION,
        "symbols": list(builder.slots),
        "dims": builder.dims.table,
        "values": builder.values,
        "inputs": ids[:count],
        "outputs": outputs,
        "steps": [step],
        "objects": {},
    }
    return Plan(document, builder.weights, [print_graph(whole, inline_elements=None)])


def interpret(graph: Graph, reason: str = "") -> Compiled:
    """A whole graph for the interpreter; with ``reason`` every node counts as a fallback."""
    plan = interpreted(graph)
    members: dict[str, Any] = {
        "plan": plan.to_json(),
        "weights": plan.weights,
        "host.json": json.dumps(plan.host_nodes).encode(),
    }
    fallbacks = [(node, reason) for node in graph] if reason else []
    return Compiled(members=members, fallbacks=fallbacks)


def _no_kernel(node: Node) -> KernelCall:
    raise CompileError(f"{node!r} has no kernel")


def bound_symbols(graph: Graph) -> set[str]:
    """Symbols that the inputs of a graph bind: those that stand alone as an axis."""
    found: set[str] = set()
    for value in graph.inputs:
        if isinstance(value.type, TensorType):
            for dim in value.type.shape or ():
                if not isinstance(dim, int) and dim.is_symbol:
                    found |= symbols(dim)
    return found


def new_symbols(node: Node, bound: set[str]) -> set[str]:
    """Symbols in the node's output types that nothing before it binds."""
    found: set[str] = set()
    for value in node.outputs:
        found |= symbols_of(value)
    return found - bound
