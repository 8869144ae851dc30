"""Small ONNX models through the whole CPU pipe, beside onnxruntime and the interpreter."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

import graphopt
from graphopt import _native
from graphopt.compiler import FallbackWarning, compile_graph
from graphopt.ir import DType
from graphopt.ops.interpreter import run_graph
from graphopt.runtime import Session
from graphopt.runtime.artifact import Artifact
from graphopt.verify import TOLERANCES, relative_error

__all__ = ["Net", "check", "compiled", "host_level", "kernels", "loaded", "onnxruntime_outputs"]

Array = np.ndarray[Any, Any]
Shape = Sequence[int | str]
Make = Callable[[np.random.Generator, tuple[int, ...]], Array]


def host_level() -> str:
    """The highest level of generated code that this machine runs: one object, half the build."""
    levels = _native.isa_levels()
    return "v4" if "avx512" in levels else "v3" if "avx2" in levels else "v2"


class Net:
    """An ONNX model in the making: ``net("Relu", x)`` adds a node and names its output."""

    def __init__(self, opset: int = 21, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.inputs: dict[str, tuple[Any, tuple[int, ...], Make]] = {}
        self.weights: list[Any] = []
        self.results: list[str] = []
        self.domains: set[str] = set()

    def input(
        self, name: str, shape: Sequence[int], dtype: Any = np.float32, make: Make | None = None
    ) -> str:
        """An input; ``make(rng, shape)`` makes its values (default: normal, or 0..9)."""

        def usual(rng: np.random.Generator, wanted: tuple[int, ...]) -> Array:
            if np.dtype(dtype).kind in "biu":
                return rng.integers(0, 2 if dtype is bool else 10, wanted).astype(dtype)
            return rng.standard_normal(wanted).astype(dtype)

        self.inputs[name] = (np.dtype(dtype), tuple(shape), make or usual)
        return name

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        """A random f32 initializer of that shape."""
        return self.const(scale * self.rng.standard_normal(shape).astype(np.float32))

    def const(self, array: Any, dtype: Any = None) -> str:
        """An initializer; Python numbers become i64 and f32."""
        if dtype is None and not isinstance(array, np.ndarray | np.generic):
            dtype = np.float32 if np.asarray(array).dtype.kind == "f" else None
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def __call__(self, op: str, *operands: str, outputs: int = 1, **attrs: Any) -> Any:
        """Adds a node; its output's name, or a list of several."""
        domain = attrs.pop("domain", "")
        self.domains.add(domain)
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, operands, names, f"n{len(self.nodes)}", domain=domain, **attrs)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def output(self, *names: str) -> Net:
        """Declares outputs."""
        self.results.extend(names)
        return self

    def model(self, shapes: Mapping[str, Shape] | None = None) -> Any:
        """The ModelProto, with other shapes for some inputs."""
        infos = [
            helper.make_tensor_value_info(
                name, int(DType.from_numpy(dtype)), (shapes or {}).get(name, shape)
            )
            for name, (dtype, shape, _) in self.inputs.items()
        ]
        ends = [helper.make_empty_tensor_value_info(name) for name in self.results]
        graph = helper.make_graph(self.nodes, "net", infos, ends, self.weights)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(d, 1) for d in sorted(self.domains) if d]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def feeds(self, seed: int = 1, shapes: Mapping[str, Sequence[int]] | None = None) -> Any:
        """Values for the inputs, of their own shapes or of others."""
        rng = np.random.default_rng(seed)
        return {
            name: make(rng, tuple((shapes or {}).get(name, shape)))
            for name, (_, shape, make) in self.inputs.items()
        }


def compiled(
    model: Any, target: str | None = None, *, fallbacks: bool = False, optimize: str = "O2"
) -> Artifact:
    """The artifact of a model. A node that falls back to the interpreter is a failure, unless
    ``fallbacks``."""
    graph = model if isinstance(model, graphopt.Graph) else graphopt.from_onnx(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if fallbacks else "error", FallbackWarning)
        return compile_graph(graph, target or f"cpu{{levels={host_level()}}}", optimize=optimize)


def loaded(artifact: Artifact, threads: int = 2) -> Session:
    """A session of an artifact that was never given a name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.gopt"
        artifact.save(path)
        return graphopt.load(path, threads=threads)


def kernels(artifact: Artifact) -> list[str]:
    """What the steps of a plan are: kernel names of native steps, kinds of the others."""
    found: list[str] = []

    def visit(steps: Any) -> None:
        for step in steps:
            found.append(step["kernel"] if step["kind"] == "native" else step["kind"])
            for key in ("then", "else", "body"):
                visit(step.get(key, ()))

    visit(artifact.json("plan")["steps"])
    return found


def onnxruntime_outputs(model: Any, feeds: Mapping[str, Array]) -> list[Any]:
    """Outputs of onnxruntime with its optimizations off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    result: list[Any] = session.run(None, dict(feeds))
    return result


def check(
    net: Net,
    symbols: Mapping[str, Shape] | None = None,
    more: Sequence[Mapping[str, Sequence[int]]] = (),
    *,
    fallbacks: bool = False,
    oracle: bool = True,
    static: bool = True,
    tolerance: float | None = None,
) -> Artifact:
    """Compiles with fixed sizes, and with ``symbols`` too; compares at the net's own sizes and at
    ``more`` ones with the interpreter and (``oracle``) onnxruntime. Returns the last artifact.

    f32 results may differ by 1e-5 in relative L2: sums in another order; integers must be equal.
    """
    variants: list[tuple[Any, list[Mapping[str, Sequence[int]]]]] = []
    if static or symbols is None:
        variants.append((net.model(), [{}]))
    if symbols is not None:
        variants.append((net.model(symbols), [{}, *more]))
    for model, sizes in variants:
        source = graphopt.from_onnx(model)
        artifact = compiled(source, fallbacks=fallbacks)
        session = loaded(artifact)
        for seed, shapes in enumerate(sizes):
            feeds = net.feeds(seed, shapes)
            _compare(model, source, session, feeds, oracle, tolerance)
    return artifact


def _compare(
    model: Any,
    source: Any,
    session: Session,
    feeds: Mapping[str, Array],
    oracle: bool,
    tolerance: float | None,
) -> None:
    got = session.run(feeds)
    with np.errstate(all="ignore"):
        references = {"interpreter": run_graph(source, feeds)}
    if oracle:
        references["onnxruntime"] = onnxruntime_outputs(model, feeds)
    for engine, wanted in references.items():
        for (name, mine), right in zip(got.items(), wanted, strict=True):
            right = np.asarray(right)
            assert mine.shape == right.shape, f"{name}: {mine.shape}, {engine} says {right.shape}"
            assert mine.dtype == right.dtype, f"{name}: {mine.dtype}, {engine} says {right.dtype}"
            bound = TOLERANCES.get(DType.from_numpy(right.dtype), 0.0)
            bound = bound if tolerance is None else tolerance
            error = relative_error(mine, right)
            assert error <= bound, f"{name}: error {error:.2e} beside {engine}"
