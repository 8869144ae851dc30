"""The ``onnx.backend`` interface: run ONNX models and single nodes by graphopt.

    from graphopt import onnx_backend
    outputs = onnx_backend.prepare(model).run([x])

``target`` (an argument of every function, or the environment variable ``GRAPHOPT_ONNX_TARGET``)
says what runs the model: ``cpu`` (the default) compiles it, ``reference`` interprets it in numpy.
A compiled model takes and yields plain tensors: one whose inputs or outputs are sequences,
optionals or strings is interpreted, with a warning. ``strict`` (or ``GRAPHOPT_ONNX_STRICT=1``)
makes anything that would be interpreted an error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from graphopt.errors import InputError, OptionError, UnsupportedError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import DType, Graph, SequenceType, TensorType, Type

__all__ = [
    "GraphoptBackend",
    "GraphoptRep",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]

Runner = Callable[[list[Any]], Sequence[Any]]


class GraphoptRep(BackendRep):  # type: ignore[misc]
    """A model that is ready to run, any number of times."""

    def __init__(self, graph: Graph, target: str, strict: bool = False) -> None:
        self.graph = graph
        self._types = {v.name: v.type for v in graph.inputs}
        self._names = list(graph.output_names)
        self._tuple = namedtupledict("Outputs", self._names)
        self._run = _runner(graph, target, strict)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs for ``inputs``: a sequence in the model's order, a mapping by name, or one array.

        Tensors are numpy arrays, sequences lists, an empty optional None. Raises InputError.
        """
        names = list(self._types)
        if isinstance(inputs, Mapping):
            missing = [name for name in names if name not in inputs]
            if missing:
                raise InputError(f"input '{missing[0]}' is missing")
            values = [inputs[name] for name in names]
        elif isinstance(inputs, np.ndarray) or (
            len(names) == 1 and isinstance(self._types[names[0]], SequenceType)
            and not (len(inputs) == 1 and isinstance(inputs[0], list | tuple))
        ):  # fmt: skip
            values = [inputs]
        else:
            values = list(inputs)
        if len(values) != len(names):
            raise InputError(f"the model takes {len(names)} inputs, not {len(values)}")
        ready = [_as_value(v, self._types[n], n) for n, v in zip(names, values, strict=True)]
        result: tuple[Any, ...] = self._tuple(*self._run(ready))
        return result


class GraphoptBackend(Backend):  # type: ignore[misc]
    """graphopt behind ONNX's interface for backends."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **kwargs: Any) -> bool:
        """True for every model: what cannot run says so when it is prepared."""
        return True

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU."""
        return device.split(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> GraphoptRep:
        """Makes a model (ModelProto, path or bytes) ready to run.

        Raises ModelError for a malformed model, UnsupportedError for one that cannot run, and
        OptionError for another device than the CPU.
        """
        if not cls.supports_device(device):
            raise OptionError(f"device '{device}' is not supported: only CPU is")
        graph = from_onnx(model, input_shapes=kwargs.get("input_shapes"))
        target = kwargs.get("target") or os.environ.get("GRAPHOPT_ONNX_TARGET") or "cpu"
        strict = bool(kwargs.get("strict", os.environ.get("GRAPHOPT_ONNX_STRICT") == "1"))
        return GraphoptRep(graph, target, strict)

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Outputs of one node; ``opset_version`` says which opset it is written in."""
        names = [name for name in node.input if name]
        values = inputs if isinstance(inputs, Mapping) else dict(zip(names, inputs, strict=True))
        graph_inputs = [
            helper.make_value_info(name, _type_of(values[name])) for name in dict.fromkeys(names)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        if outputs_info is not None:
            for info, (dtype, shape) in zip(outputs, outputs_info, strict=False):
                code = int(DType.from_numpy(dtype))
                info.type.CopyFrom(helper.make_tensor_type_proto(code, shape))
        opset = kwargs.pop("opset_version", None) or onnx.defs.onnx_opset_version()
        imports = [helper.make_opsetid(node.domain, 1)] if node.domain else []
        model = helper.make_model(
            helper.make_graph([node], "node", graph_inputs, outputs),
            opset_imports=[helper.make_opsetid("", opset), *imports],
        )
        return cls.prepare(model, device, **kwargs).run({n: values[n] for n in names})


def _runner(graph: Graph, target: str, strict: bool = False) -> Runner:
    if target == "reference":
        from graphopt.ops.interpreter import run_graph

        return lambda values: run_graph(graph, values)
    from graphopt.compiler import FallbackWarning, compile_graph
    from graphopt.runtime import open_artifact

    for value in (*graph.inputs, *graph.outputs):
        if not isinstance(value.type, TensorType) or value.type.dtype is DType.STRING:
            reason = (
                f"'{value.name}' is {value.type}, and compiled models take and yield plain tensors"
            )
            if strict:
                raise UnsupportedError(reason)
            text = f"the reference interpreter runs the model: {reason}"
            warnings.warn(text, FallbackWarning, stacklevel=4)
            return _runner(graph, "reference")
    session = open_artifact(compile_graph(graph, target, strict=strict))
    inputs, outputs = [v.name for v in graph.inputs], graph.output_names

    def run(values: list[Any]) -> list[Any]:
        results = session.run(dict(zip(inputs, values, strict=True)))
        return [results[name] for name in outputs]

    return run


def _type_of(value: Any) -> Any:
    """The TypeProto of a value; an empty sequence counts as one of f32 tensors."""
    if isinstance(value, list | tuple):
        element = _type_of(value[0]) if value else helper.make_tensor_type_proto(1, None)
        return helper.make_sequence_type_proto(element)
    array = np.asarray(value)
    return helper.make_tensor_type_proto(int(DType.from_numpy(array.dtype)), array.shape)


def _as_value(value: Any, type: Type, name: str) -> Any:
    if isinstance(type, SequenceType):
        if not isinstance(value, list | tuple):
            raise InputError(f"input '{name}' is a sequence: give a list")
        return [_as_value(item, type.element, name) for item in value]
    if not isinstance(type, TensorType):
        return None if value is None else _as_value(value, type.element, name)
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    array = np.asarray(value)
    if type.dtype is DType.STRING:
        return _strings(array)
    try:
        given = DType.from_numpy(array.dtype)
    except TypeError as error:
        raise InputError(f"input '{name}': {error}") from None
    if given is not type.dtype:
        raise InputError(f"input '{name}' is {type.dtype}, not {given}")
    if type.rank is not None and array.ndim != type.rank:
        raise InputError(f"input '{name}' has {type.rank} axes, not {array.ndim}")
    return array


def _strings(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result = np.empty(array.shape, object)
    flat, source = result.reshape(-1), array.reshape(-1)
    for index, item in enumerate(source):
        is_bytes = isinstance(item, bytes)
        flat[index] = item.decode("utf-8", "surrogateescape") if is_bytes else str(item)
    return flat.reshape(array.shape)


is_compatible = GraphoptBackend.is_compatible
prepare = GraphoptBackend.prepare
run_model = GraphoptBackend.run_model
run_node = GraphoptBackend.run_node
supports_device = GraphoptBackend.supports_device
