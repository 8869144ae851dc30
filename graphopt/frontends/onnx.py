"""Reading ONNX models of any opset into the IR."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphoptError, ModelError, OptionError
from graphopt.frontends.onnx_file import ModelFile, open_model
from graphopt.frontends.onnx_import import DOC_KEY, Frame, Importer, Scope
from graphopt.frontends.onnx_tensor import text
from graphopt.frontends.onnx_types import Symbols, convert_type, dim_params
from graphopt.ir import Dim, Graph, TensorType, Type

if TYPE_CHECKING:
    import onnx

__all__ = ["from_onnx"]

_NAME = re.compile(r"[A-Za-z_]\w*\Z", re.ASCII)
# What a damaged protobuf can still make the conversion stumble over.
_STUMBLES = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, AssertionError,
    RecursionError, MemoryError,
)  # fmt: skip


def from_onnx(
    model: str | PathLike[str] | bytes | onnx.ModelProto,
    *,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> Graph:
    """The graph of an ONNX model, every node brought to the newest opset.

    ``model`` is a path, the file's bytes or a ModelProto. Weights in a file, and external data
    beside it, are memory-mapped. ``input_shapes`` overrides shapes of inputs: numbers, or names of
    dynamic sizes; a size that the model names is replaced wherever it has that name.

    A ``dim_param`` becomes the symbol of that name, an unnamed dynamic size the symbol
    ``<input>_<axis>``. An initializer that is listed as an input too (its default value, before IR
    version 4) is a constant. Declared types of inner values count only where the rank is not known
    otherwise. ``Graph.metadata`` keeps ``metadata_props`` as they are and, under ``onnx.``,
    producer, version, domain, opsets, what the interface's values are documented as, and whether
    weights lie in files of their own.

    Raises ModelError when the file is missing, malformed or breaks ONNX's rules, UnsupportedError
    for what the IR has no form for, OptionError when ``input_shapes`` does not fit the model.
    """
    file = open_model(model)
    label = file.reader.label
    try:
        return _build(file, input_shapes or {})
    except GraphoptError as error:
        if str(error).startswith(label):
            raise
        raise type(error)(f"{label}: {error}") from error
    except _STUMBLES as error:
        raise ModelError(f"{label}: is malformed: {type(error).__name__}: {error}") from error


def _build(file: ModelFile, input_shapes: Mapping[str, Sequence[int | str]]) -> Graph:
    model = file.proto
    if not model.HasField("graph"):
        raise ModelError("it holds no graph")
    proto = model.graph
    graph = Graph(text(proto.name) or "main")
    importer = Importer(model, file.reader, graph)
    opsets = _opsets(model)
    frame = Frame(Scope(), opsets, hints=importer.hints(proto))
    importer.initializers(proto, graph, frame.scope, file.slots)
    _inputs(importer, proto, graph, frame.scope, input_shapes)
    importer.body(proto, graph, frame)
    importer.outputs(proto, graph, frame)
    _metadata(model, graph, opsets)
    if file.reader.read_files:
        graph.metadata["onnx.external_data"] = "yes"
    return graph


def _opsets(model: Any) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = text(entry.domain)
        domain = "" if domain == "ai.onnx" else domain
        version = int(entry.version)
        if version < 1:
            raise ModelError(f"it imports opset {version} of domain '{domain or 'ai.onnx'}'")
        opsets[domain] = max(version, opsets.get(domain, 0))
    if not model.opset_import and model.ir_version < 3:
        # Models older than opsets: their ops are those of opset 1.
        opsets[""] = 1
    newest = _newest_opset()
    if opsets.get("", 0) > newest:
        raise ModelError(
            f"it uses opset {opsets['']}, but the installed onnx knows opsets up to {newest}: "
            "update onnx, or export the model for an older opset"
        )
    return opsets


def _newest_opset() -> int:
    from onnx import defs

    return int(defs.onnx_opset_version())


def _inputs(
    importer: Importer,
    proto: Any,
    graph: Graph,
    scope: Scope,
    overrides: Mapping[str, Sequence[int | str]],
) -> None:
    infos = [info for info in proto.input if not scope.has(text(info.name))]
    names = [text(info.name) for info in infos]
    for name in overrides:
        if name not in names:
            listed = ", ".join(f"'{n}'" for n in names) or "none"
            raise OptionError(f"input shape given for '{name}', but the inputs are {listed}")
    _bind_sizes(importer.symbols, infos, overrides)
    # Named sizes first, so that no made-up name takes theirs.
    for info in infos:
        if text(info.name) not in overrides:
            for raw in dim_params(info.type):
                importer.symbols.named(raw)
    for info, name in zip(infos, names, strict=True):
        if not name:
            raise ModelError("an input of the model has no name")
        if name in overrides:
            dtype = convert_type(_without_shape(info.type), name, importer.symbols, importer.label)
            if not isinstance(dtype, TensorType):
                raise OptionError(f"input '{name}' is not a tensor: it has no shape to override")
            dims = tuple(_given(importer.symbols, d) for d in overrides[name])
            found: Type | None = TensorType(dtype.dtype, dims)
        else:
            found = convert_type(info.type, name, importer.symbols, importer.label)
        if found is None:
            raise ModelError(f"input '{name}' has no type")
        scope.define(name, graph.add_input(name, found))


def _without_shape(proto: Any) -> Any:
    bare = type(proto)()
    bare.CopyFrom(proto)
    if bare.WhichOneof("value") == "tensor_type":
        bare.tensor_type.ClearField("shape")
    return bare


def _given(symbols: Symbols, dim: int | str) -> Dim:
    if isinstance(dim, str):
        if not _NAME.match(dim):
            raise OptionError(f"'{dim}' is no name for a dynamic size")
        return symbols.exact(dim)
    return int(dim)


def _bind_sizes(
    symbols: Symbols, infos: Sequence[Any], overrides: Mapping[str, Sequence[int | str]]
) -> None:
    """Sizes that the model names take the value that the caller gives for them."""
    for info in infos:
        name = text(info.name)
        if name not in overrides:
            continue
        given = overrides[name]
        if any(isinstance(d, int) and d < 0 for d in given):
            raise OptionError(f"input '{name}': a size cannot be negative")
        if info.type.WhichOneof("value") != "tensor_type":
            raise OptionError(f"input '{name}' is not a tensor: it has no shape to override")
        body = info.type.tensor_type
        if not body.HasField("shape"):
            continue
        declared = body.shape.dim
        if len(declared) != len(given):
            raise OptionError(f"input '{name}' has {len(declared)} axes, not {len(given)}")
        for dim, wanted in zip(declared, given, strict=True):
            if dim.WhichOneof("value") != "dim_param" or not dim.dim_param:
                continue
            raw = text(dim.dim_param)
            value, known = _given(symbols, wanted), symbols.known(raw)
            if known is not None and known != value:
                raise OptionError(f"the size '{raw}' is given as {known} and as {value}")
            symbols.bind(raw, value)


def _metadata(model: Any, graph: Graph, opsets: Mapping[str, int]) -> None:
    for prop in model.metadata_props:
        graph.metadata[text(prop.key)] = text(prop.value)
    fields = {
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "domain": model.domain,
        "doc_string": model.doc_string,
    }
    for key, value in fields.items():
        if value:
            graph.metadata[f"onnx.{key}"] = text(value)
    if model.model_version:
        graph.metadata["onnx.model_version"] = str(int(model.model_version))
    for domain, version in sorted(opsets.items()):
        graph.metadata[f"onnx.opset.{domain}" if domain else "onnx.opset"] = str(version)
    graph.doc = text(model.graph.doc_string)
    for info in (*model.graph.input, *model.graph.output):
        if info.doc_string:
            graph.metadata[DOC_KEY + text(info.name)] = text(info.doc_string)
