"""Writing graphs as ONNX models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import missing_extra
from graphopt.exporters.onnx_expand import expanded
from graphopt.exporters.onnx_file import stored_bytes, write_model
from graphopt.exporters.onnx_lower import Form, Operand
from graphopt.exporters.onnx_opset import Opsets, choose_opsets
from graphopt.exporters.onnx_proto import node_proto, raw_bytes, tensor_proto, type_proto
from graphopt.frontends.onnx_import import DOC_KEY, ORIGIN_KEY
from graphopt.ir import Constant, DType, Graph, Node, Value, static_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["save_onnx", "to_onnx"]

# A protobuf holds at most 2 GiB; beyond this weights go to a file of their own.
_INLINE_LIMIT = 3 << 29
# Mapping a tensor alone takes page alignment.
_ALIGNMENT = 1 << 12
# Smaller contents stay in the protobuf in any case.
_STREAMED_BYTES = 1 << 10


def to_onnx(
    graph: Graph,
    path: str | PathLike[str] | None = None,
    *,
    opset: int | None = None,
    external_data: int | None = None,
) -> onnx.ModelProto:
    """The ONNX model of a graph, written to ``path`` when one is given.

    The opset is that of the source model, or the lowest above it that says what every node means
    (at least 18 when there was no source); ``opset`` fixes it, and ops that it lacks are written as
    the functions that ONNX defines them by. Names of inputs and outputs, symbols
    and metadata are kept; a node that stands for other source nodes names them in its metadata
    under ``graphopt.origin``.

    Constants of at least ``external_data`` bytes go to the file ``<path>.data``; by default all of
    1 KiB and more do when the source model had such a file, or when the constants together take
    more than 1.5 GiB. Files are written under other names first and moved into place.

    Raises OptionError for an opset that cannot say what a node means, UnsupportedError for a node
    that no opset has, ArtifactError when the file cannot be written.
    """
    if path is None:
        return _model(graph, opset, _Store(None, streams=False))
    model, store = _save(graph, Path(path), opset, external_data)
    for index, constant in store.streamed.items():
        raw = raw_bytes(constant.array, constant.type.dtype)
        model.graph.initializer[index].raw_data = raw
    return model


def save_onnx(
    graph: Graph,
    path: str | PathLike[str],
    *,
    opset: int | None = None,
    external_data: int | None = None,
) -> None:
    """Writes what :func:`to_onnx` does, one weight in memory at a time. Raises what it does."""
    _save(graph, Path(path), opset, external_data)


def _save(
    graph: Graph, path: Path, opset: int | None, external_data: int | None
) -> tuple[Any, _Store]:
    if external_data is None:
        total = sum(c.nbytes for g in _graphs(graph) for c in _used(g))
        if total > _INLINE_LIMIT or "onnx.external_data" in graph.metadata:
            external_data = _STREAMED_BYTES
    store = _Store(external_data, streams=True, location=path.name + ".data")
    model = _model(graph, opset, store)
    write_model(model, path, store.streamed, path.with_name(store.location), store.constants)
    return model, store


def _model(graph: Graph, opset: int | None, store: _Store) -> Any:
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx", "onnx") from None
    if opset is not None and 1 <= opset <= onnx.defs.onnx_opset_version():
        graph = expanded(graph, opset)
    opsets = choose_opsets(graph, opset)
    model = onnx.ModelProto(ir_version=_ir_version(opsets.versions))
    native = "onnx.opset" in graph.metadata or any(not n.op.domain for n in graph.walk())
    for domain, version in sorted(opsets.versions.items()):
        if not domain and not native and len(opsets.versions) > 1:
            continue
        model.opset_import.add(domain=domain, version=version)
    _metadata(graph, model)
    _Exporter(graph, store, opsets).graph(graph, model.graph)
    return model


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph:
        for region in node.regions:
            yield from _graphs(region)


def _used(graph: Graph) -> Iterator[Constant]:
    for value in graph.constants.values():
        if value.use_count and value.constant is not None:
            yield value.constant


def _ir_version(opsets: dict[str, int]) -> int:
    from onnx import helper

    known = [helper.make_opsetid(d, v) for d, v in opsets.items() if d in ("", "ai.onnx.ml")]
    # Before version 4 every initializer had to be an input; 8 is what opset 15 came with.
    return max(8, int(helper.find_min_ir_version_for(known, ignore_unknown=True)))


def _metadata(graph: Graph, model: Any) -> None:
    model.producer_name = "graphopt"
    for key, value in sorted(graph.metadata.items()):
        if not key.startswith("onnx."):
            model.metadata_props.add(key=key, value=value)
        elif key == "onnx.model_version":
            model.model_version = int(value)
        elif key in ("onnx.producer_name", "onnx.producer_version", "onnx.domain",
                     "onnx.doc_string"):  # fmt: skip
            setattr(model, key.removeprefix("onnx."), value)


@dataclass
class _Store:
    """Where the contents of constants go: into the protobuf, or to the file apart from it."""

    threshold: int | None
    streams: bool
    location: str = ""
    size: int = 0
    constants: list[tuple[int, Constant]] = field(default_factory=list)
    streamed: dict[int, Constant] = field(default_factory=dict)

    def add(self, constant: Constant, name: str, proto: Any, top: bool) -> None:
        """Appends the TensorProto of a constant to the initializers of a GraphProto."""
        import onnx

        dtype = constant.type.dtype
        plain = dtype is DType.STRING or constant.nbytes < _STREAMED_BYTES
        if not plain and self.threshold is not None and constant.nbytes >= self.threshold:
            tensor = self._bare(constant, name, proto)
            offset = -(-self.size // _ALIGNMENT) * _ALIGNMENT
            length = stored_bytes(constant)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            entries = (("location", self.location), ("offset", offset), ("length", length))
            for key, value in entries:
                tensor.external_data.add(key=key, value=str(value))
            self.constants.append((offset, constant))
            self.size = offset + length
        elif not plain and self.streams and top:
            self.streamed[len(proto.initializer)] = constant
            self._bare(constant, name, proto)
        else:
            proto.initializer.append(tensor_proto(constant, name))

    def _bare(self, constant: Constant, name: str, proto: Any) -> Any:
        tensor = proto.initializer.add(name=name, data_type=int(constant.type.dtype))
        shape = static_shape(constant.type.shape)
        assert shape is not None
        tensor.dims.extend(shape)
        return tensor


class _Exporter:
    """Turns a graph and its regions into GraphProtos. Names of values are unique over all."""

    def __init__(self, root: Graph, store: _Store, opsets: Opsets) -> None:
        self.store = store
        self.opsets = opsets
        self.docs = {
            key.removeprefix(DOC_KEY): text
            for key, text in root.metadata.items()
            if key.startswith(DOC_KEY)
        }
        # Constants that a node needs in its older form alone, by contents.
        self.made: dict[str, str] = {}
        self.late: list[tuple[str, Constant]] = []
        self.names: dict[Value, str] = {}
        self.taken: set[str] = set()
        self.node_names: set[str] = set()
        # Outputs that need a node of their own to carry the name.
        self.copies: dict[tuple[Graph, int], str] = {}
        for value in root.inputs:
            self._name(value, value.name)
        self._name_outputs(root)

    def _name(self, value: Value, wanted: str) -> str:
        name = _free(wanted, self.taken)
        self.names[value] = name
        return name

    def _name_outputs(self, graph: Graph) -> None:
        for index, (value, wanted) in enumerate(
            zip(graph.outputs, graph.output_names, strict=True)
        ):
            produced = value.producer is not None and value.graph is graph
            if produced and value not in self.names:
                name = self._name(value, wanted)
                if name == wanted or graph.parent is not None:
                    continue
            self.copies[graph, index] = wanted if graph.parent is None else ""
            if graph.parent is None:
                self.taken.add(wanted)

    def name(self, value: Value | None) -> str:
        """The name of a value in the model."""
        if value is None:
            return ""
        found = self.names.get(value)
        return found if found is not None else self._name(value, value.name)

    def region(self, graph: Graph) -> Any:
        """The GraphProto of a region."""
        import onnx

        proto = onnx.GraphProto()
        self.graph(graph, proto)
        return proto

    def graph(self, graph: Graph, proto: Any) -> None:
        """Fills ``proto`` with a graph or region."""
        proto.name, proto.doc_string = graph.name, graph.doc
        if graph.parent is not None:
            self._name_outputs(graph)
        for value in graph.inputs:
            info = proto.input.add(name=self.name(value))
            info.type.CopyFrom(type_proto(value.type))
            self._document(info, graph)
        for node in graph:
            proto.node.append(self._node(node))
            if node.op.opaque:
                for value in node.outputs:
                    info = proto.value_info.add(name=self.name(value))
                    info.type.CopyFrom(type_proto(value.type))
        self._outputs(graph, proto)
        self._constants(graph, proto)

    def _constants(self, graph: Graph, proto: Any) -> None:
        """Initializers: what nodes read in the form that they have got."""
        top = graph.parent is None
        for value in graph.constants.values():
            if value.constant is not None and value in self.names:
                self.store.add(value.constant, self.names[value], proto, top)
        if top:
            for name, constant in self.late:
                self.store.add(constant, name, proto, True)

    def _document(self, info: Any, graph: Graph) -> None:
        if graph.parent is None and info.name in self.docs:
            info.doc_string = self.docs[info.name]

    def _operand(self, operand: Operand) -> str:
        if not isinstance(operand, Constant):
            return self.name(operand)
        name = self.made.get(operand.digest)
        if name is None:
            name = self.made[operand.digest] = _free("c", self.taken)
            self.late.append((name, operand))
        return name

    def _node(self, node: Node) -> Any:
        name = _free(node.name or f"{node.op.name}_{self.name(node.output)}", self.node_names)
        outputs = [self.name(v) for v in node.outputs]
        form = Form(node, node.op.name, list(node.inputs), dict(node.attrs))
        if not node.op.domain:
            found = self.opsets.form(node)
            assert isinstance(found, Form), found
            form = found
        proto = node_proto(
            form.op, node.op.domain, [self._operand(v) for v in form.operands], outputs,
            form.attrs, name=name, graph=self.region,
            kinds={key: spec.kind for key, spec in node.op.attrs.items()},
        )  # fmt: skip
        if node.origin != {node.name}:
            proto.metadata_props.add(key=ORIGIN_KEY, value="\n".join(sorted(node.origin)))
        return proto

    def _outputs(self, graph: Graph, proto: Any) -> None:
        for index, value in enumerate(graph.outputs):
            name = self.name(value)
            wanted = self.copies.get((graph, index))
            if wanted is not None:
                # The value is an input, a constant, captured, or an output already.
                copied = wanted or _free(f"{name}_out", self.taken)
                label = _free(f"Identity_{copied}", self.node_names)
                proto.node.append(node_proto("Identity", "", [name], [copied], {}, name=label))
                name = copied
            info = proto.output.add(name=name)
            info.type.CopyFrom(type_proto(value.type))
            self._document(info, graph)


def _free(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 0
    while name in taken or not name:
        count += 1
        name = f"{wanted or 'v'}.{count}"
    taken.add(name)
    return name
