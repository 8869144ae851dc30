"""Writing graphs as ONNX models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.errors import missing_extra
from graphopt.exporters.onnx_file import stored_bytes, write_model
from graphopt.exporters.onnx_opset import choose_opsets
from graphopt.exporters.onnx_proto import node_proto, raw_bytes, tensor_proto, type_proto
from graphopt.frontends.onnx_import import ORIGIN_KEY
from graphopt.ir import Constant, DType, Graph, Node, Value, static_shape

if TYPE_CHECKING:
    import onnx

__all__ = ["to_onnx"]

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
    (at least 18 when there was no source); ``opset`` fixes it. Names of inputs and outputs, symbols
    and metadata are kept; a node that stands for other source nodes names them in its metadata
    under ``graphopt.origin``.

    Constants of at least ``external_data`` bytes go to the file ``<path>.data``; by default all of
    1 KiB and more do when the constants together take more than 1.5 GiB. Files are written under
    other names first and moved into place.

    Raises OptionError for an opset that cannot say what a node means, UnsupportedError for a node
    that no opset has, ArtifactError when the file cannot be written.
    """
    try:
        import onnx
    except ImportError:
        raise missing_extra("onnx", "onnx") from None
    opsets = choose_opsets(graph, opset)
    if external_data is None and path is not None:
        total = sum(c.nbytes for g in _graphs(graph) for c in _used(g))
        external_data = _STREAMED_BYTES if total > _INLINE_LIMIT else None
    store = _Store(external_data if path is not None else None, streams=path is not None)
    if path is not None:
        store.location = Path(path).name + ".data"
    model = onnx.ModelProto(ir_version=_ir_version(opsets))
    for domain, version in sorted(opsets.items()):
        model.opset_import.add(domain=domain, version=version)
    _metadata(graph, model)
    exporter = _Exporter(graph, store)
    exporter.graph(graph, model.graph)
    if path is not None:
        target = Path(path)
        data = target.with_name(store.location)
        write_model(model, target, store.streamed, data, store.constants)
        for index, constant in store.streamed.items():
            raw = raw_bytes(constant.array, constant.type.dtype)
            model.graph.initializer[index].raw_data = raw
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

    def __init__(self, root: Graph, store: _Store) -> None:
        self.store = store
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
        for value in graph.constants.values():
            if value.use_count and value.constant is not None:
                top = graph.parent is None
                self.store.add(value.constant, self.name(value), proto, top)
        for node in graph:
            proto.node.append(self._node(node))
            if node.op.opaque:
                for value in node.outputs:
                    info = proto.value_info.add(name=self.name(value))
                    info.type.CopyFrom(type_proto(value.type))
        self._outputs(graph, proto)

    def _node(self, node: Node) -> Any:
        name = _free(node.name or f"{node.op.name}_{self.name(node.output)}", self.node_names)
        outputs = [self.name(v) for v in node.outputs]
        proto = node_proto(
            node.op.name, node.op.domain, [self.name(v) for v in node.inputs], outputs,
            node.attrs, name=name, graph=self.region,
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


def _free(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 0
    while name in taken or not name:
        count += 1
        name = f"{wanted or 'v'}.{count}"
    taken.add(name)
    return name
