"""From the protobuf of a graph to nodes of the IR, every node brought to the newest opset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graphopt import ops
from graphopt.errors import ModelError, UnsupportedError
from graphopt.frontends.onnx_attrs import AttrReader, check_attrs
from graphopt.frontends.onnx_draft import Draft, steps_after
from graphopt.frontends.onnx_order import sorted_nodes
from graphopt.frontends.onnx_tensor import Slot, TensorReader, text
from graphopt.frontends.onnx_types import Symbols, convert_type
from graphopt.frontends.onnx_upgrade_flow import constant_of
from graphopt.frontends.onnx_upgrade_moves import drop_empty_operands
from graphopt.ir import Builder, Constant, Graph, OpDef, TensorType, Type, Value

__all__ = ["DOC_KEY", "ORIGIN_KEY", "Frame", "Importer", "Scope"]

# A function may call others: a small file can ask for any number of nodes.
_MAX_NODES = 2_000_000
_MAX_CALL_DEPTH = 32
# Key of the node metadata in which the exporter names the source nodes, one a line.
ORIGIN_KEY = "graphopt.origin"
# Graph.metadata: what the model says of an input or output, by name.
DOC_KEY = "onnx.doc."
_DEFAULT_DOMAINS = ("", "ai.onnx")


class Scope:
    """Names in scope: those of one graph, then those of the graphs around it."""

    __slots__ = ("_outer", "_values")

    def __init__(self, outer: Scope | None = None) -> None:
        self._outer = outer
        self._values: dict[str, Value | None] = {}

    def define(self, name: str, value: Value | None) -> None:
        """Binds ``name`` here. Raises ModelError when this graph has it already."""
        if name in self._values:
            raise ModelError(f"the name '{name}' is defined twice")
        self._values[name] = value

    def has(self, name: str) -> bool:
        """True when this very graph defines ``name``."""
        return name in self._values

    def find(self, name: str, node: str) -> Value | None:
        """What ``name`` means; None for a function's absent operand. Raises ModelError."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope._values[name]
            scope = scope._outer
        raise ModelError(f"{node} reads '{name}', which nothing defines")


@dataclass(frozen=True)
class Frame:
    """What the nodes of one graph or function body share."""

    scope: Scope
    opsets: Mapping[str, int]
    attrs: Mapping[str, Any] | None = None
    prefix: str = ""
    origin: frozenset[str] | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    calls: tuple[tuple[str, str, str], ...] = ()


class Importer:
    """Builds the IR of one model."""

    def __init__(self, model: Any, reader: TensorReader, graph: Graph) -> None:
        self.label = reader.label
        self.reader = reader
        self.graph = graph
        self.symbols = Symbols(graph)
        self.attrs = AttrReader(reader, self.symbols, reader.label)
        self.functions: dict[tuple[str, str, str], Any] = {}
        for function in model.functions:
            key = (_domain(function.domain), text(function.name), text(function.overload))
            if key in self.functions:
                raise ModelError(f"the function '{key[1]}' is defined twice")
            self.functions[key] = function
        self.imported = 0

    # ---- graphs ----

    def initializers(
        self, proto: Any, graph: Graph, scope: Scope, slots: Mapping[int, Slot]
    ) -> None:
        """Constants of a graph, dense and sparse."""
        for index, tensor in enumerate(proto.initializer):
            name = text(tensor.name)
            if not name:
                raise ModelError(f"initializer {index} has no name")
            constant = self.reader.constant(tensor, slots.get(index))
            scope.define(name, graph.add_constant(constant, name))
        for sparse in proto.sparse_initializer:
            name = text(sparse.values.name)
            if not name:
                raise ModelError("a sparse initializer has no name")
            scope.define(name, graph.add_constant(self.reader.sparse(sparse), name))

    def body(self, proto: Any, graph: Graph, frame: Frame) -> None:
        """Nodes of a graph in topological order."""
        for node in sorted_nodes(proto.node, frame.scope.has):
            self.node(node, graph, frame)

    def outputs(self, proto: Any, graph: Graph, frame: Frame) -> None:
        """Outputs of a graph."""
        seen: set[str] = set()
        for info in proto.output:
            name = text(info.name)
            value = frame.scope.find(name, f"the outputs of graph '{text(proto.name)}'")
            assert value is not None
            unique = name
            if graph.parent is not None:
                # A region may yield one value twice; names of its outputs mean nothing outside.
                while unique in seen:
                    unique += "_"
            elif name in seen:
                raise ModelError(f"the model has two outputs '{name}'")
            seen.add(unique)
            graph.add_output(value, unique)

    def hints(self, proto: Any) -> dict[str, Any]:
        """Declared types of the values of a graph by name, not converted yet."""
        return {text(info.name): info.type for info in (*proto.value_info, *proto.output)}

    def hint(self, name: str, frame: Frame) -> Type | None:
        """The declared type of a value; None when there is none or it cannot be held."""
        proto = frame.hints.get(name)
        if proto is None:
            return None
        try:
            return convert_type(proto, name, self.symbols, self.label)
        except UnsupportedError:
            return None

    # ---- nodes ----

    def node(self, proto: Any, graph: Graph, frame: Frame) -> None:
        """Imports one NodeProto, binding its outputs."""
        self.imported += 1
        if self.imported > _MAX_NODES:
            raise ModelError(f"its functions expand to more than {_MAX_NODES} nodes")
        op, domain = text(proto.op_type), _domain(proto.domain)
        if not op:
            raise ModelError(f"node '{text(proto.name)}' has no operator")
        label = graph.fresh_node_name(
            frame.prefix + (text(proto.name) or f"{op}_{self.imported - 1}")
        )
        names = [text(name) for name in proto.output]
        while names and not names[-1]:
            names.pop()
        inputs = [
            frame.scope.find(text(name), f"node '{label}' ({op})") if name else None
            for name in proto.input
        ]
        attrs = self.attrs.convert(proto.attribute, label, frame.attrs, frame)
        origin = frame.origin or _origin(proto) or frozenset({label})
        key = (domain, op, text(proto.overload))
        if key in self.functions:
            inner = replace(frame, origin=frame.origin, prefix=f"{label}/")
            values = self.call(key, inputs, attrs, len(names), graph, inner)
        else:
            draft = Draft(
                op, domain, self._version(domain, frame, label), inputs, attrs,
                [bool(n) for n in names], label, Builder(graph, origin=origin), names,
            )  # fmt: skip
            values = self.emit(draft, frame)
        self._bind(names, values, graph, frame, label)

    def _bind(
        self,
        names: Sequence[str],
        values: Sequence[Value],
        graph: Graph,
        frame: Frame,
        label: str,
    ) -> None:
        if len(values) < len(names):
            raise ModelError(
                f"node '{label}' yields {len(values)} outputs, but the model names {len(names)}"
            )
        for name, value in zip(names, values, strict=False):
            if not name:
                continue
            try:
                frame.scope.define(name, value)
            except ModelError:
                raise ModelError(f"node '{label}' defines '{name}' again") from None
            if isinstance(value.type, TensorType) and value.type.shape is None:
                hint = self.hint(name, frame)
                if isinstance(hint, TensorType) and hint.dtype is value.type.dtype:
                    value.type = hint

    def _version(self, domain: str, frame: Frame, label: str) -> int:
        version = frame.opsets.get(domain)
        if version is None and domain == "":
            raise ModelError(
                f"node '{label}' is of the ONNX domain, but the model imports no opset of it"
            )
        return 1 if version is None else version

    def emit(self, draft: Draft, frame: Frame) -> Sequence[Value]:
        """Upgrades a draft to the newest opset and adds it; its outputs."""
        while (found := steps_after(draft.domain, draft.op, draft.version)) is not None:
            target, step = found
            built = step(draft)
            if built is not None:
                return _named(built, draft)
            draft.version = max(target, draft.version)
        if draft.op == "Constant" and not draft.domain:
            # Contents are no operation: they become a constant of the graph.
            name = draft.names[0] if draft.names else ""
            return [draft.build.graph.add_constant(constant_of(draft), name or draft.label)]
        if draft.op == "Resize" and not draft.domain:
            drop_empty_operands(draft)
        op = ops.known(draft.op, draft.domain)
        if op is None:
            from graphopt.frontends.onnx_bodies import inline_schema_body

            inlined = inline_schema_body(self, draft, frame)
            if inlined is not None:
                return _named(inlined, draft)
            return self._opaque(draft, frame)
        check_attrs(op, draft.attrs, draft.label)
        if draft.op in ("If", "Loop", "Scan", "SequenceMap") and not draft.domain:
            from graphopt.frontends.onnx_regions import control_flow

            return control_flow(self, op, draft)
        if any(spec.kind == "g" for spec in op.attrs.values()):
            from graphopt.frontends.onnx_regions import declared_regions

            declared_regions(self, draft)
        return self.add(op, draft)

    def add(self, op: OpDef, draft: Draft, types: Sequence[Type] | None = None) -> Sequence[Value]:
        """Adds the draft as a node of ``op``."""
        graph = draft.build.graph
        if op.max_outputs is not None and draft.n_outputs > op.max_outputs:
            draft.fail(f"it yields at most {op.max_outputs} outputs, not {draft.n_outputs}")
        node = graph.add(
            op, draft.inputs, draft.attrs, n_outputs=draft.n_outputs, types=types,
            names=draft.names, name=draft.label, origin=draft.build.origin,
        )  # fmt: skip
        return node.outputs

    def _opaque(self, draft: Draft, frame: Frame) -> Sequence[Value]:
        """An op that graphopt does not know, with the types that the model declares.

        An output without a declared type is taken for a tensor of the first operand's element
        type, of unknown rank.
        """
        from graphopt.frontends.onnx_regions import declared_regions

        op = ops.get(draft.op, draft.domain)
        if op.domain in _DEFAULT_DOMAINS:
            from graphopt.frontends.onnx_bodies import check_exists

            check_exists(draft)
        declared_regions(self, draft)
        first = next((v for v in draft.inputs if v is not None), None)
        guess: Type | None = None
        if first is not None and isinstance(first.type, TensorType):
            guess = TensorType(first.type.dtype, None)
        types: list[Type] = []
        for name in draft.names:
            found = self.hint(name, frame) or guess
            if found is None:
                raise ModelError(
                    f"node '{draft.label}' ({op.qualified}): the type of output '{name}' is not "
                    "known; declare it in the model's value_info"
                )
            types.append(found)
        return self.add(op, draft, types)

    # ---- functions ----

    def call(
        self,
        key: tuple[str, str, str],
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        n_outputs: int,
        graph: Graph,
        frame: Frame,
    ) -> Sequence[Value]:
        """Inlines a function of the model."""
        function = self.functions[key]
        if key in frame.calls:
            raise ModelError(f"the function '{key[1]}' calls itself")
        if len(frame.calls) >= _MAX_CALL_DEPTH:
            raise ModelError(f"functions call each other more than {_MAX_CALL_DEPTH} deep")
        opsets = {_domain(o.domain): int(o.version) for o in function.opset_import}
        inner = replace(
            frame, opsets=opsets or frame.opsets, calls=(*frame.calls, key),
            hints={text(i.name): i.type for i in function.value_info},
        )  # fmt: skip
        return self.inline(function, inputs, attrs, n_outputs, graph, inner)

    def inline(
        self,
        function: Any,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        n_outputs: int,
        graph: Graph,
        frame: Frame,
    ) -> Sequence[Value]:
        """Adds the nodes of a FunctionProto; ``frame`` is that of its body, scope aside."""
        name = text(function.name)
        if len(inputs) > len(function.input):
            raise ModelError(f"the function '{name}' takes {len(function.input)} operands, "
                             f"not {len(inputs)}")  # fmt: skip
        scope = Scope()
        padded = [*inputs, *[None] * (len(function.input) - len(inputs))]
        for parameter, value in zip(function.input, padded, strict=True):
            scope.define(text(parameter), value)
        defaults = self.attrs.convert(function.attribute_proto, name, None, frame)
        given = {**defaults, **{k: v for k, v in attrs.items() if v is not None}}
        body = replace(frame, scope=scope, attrs=given)
        for node in sorted_nodes(function.node, scope.has):
            self.node(node, graph, body)
        results = []
        for output in function.output[:n_outputs]:
            value = scope.find(text(output), f"the outputs of function '{name}'")
            if value is None:
                raise ModelError(f"the function '{name}' yields an operand that is absent")
            results.append(value)
        return results


def _domain(raw: Any) -> str:
    name = text(raw)
    return "" if name in _DEFAULT_DOMAINS else name


def _origin(proto: Any) -> frozenset[str]:
    """The source nodes that an exported node says it stands for."""
    for prop in proto.metadata_props:
        if text(prop.key) == ORIGIN_KEY:
            return frozenset(filter(None, text(prop.value).split("\n")))
    return frozenset()


def _named(values: Sequence[Value], draft: Draft) -> Sequence[Value]:
    """``values`` with the names that the model has for them, where they are free."""
    for name, value in zip(draft.names, values, strict=False):
        made = value.producer is not None and value.producer in draft.build.created
        if name and made and value.name != name:
            try:
                value.graph.rename(value, name)
            except ModelError:
                continue
    return values


def constants_of(values: Sequence[Value]) -> Iterator[Constant]:
    """Constants among ``values``."""
    return (v.constant for v in values if v.constant is not None)
