"""Running an artifact of target ``cuda``: numpy and the NVIDIA driver are all that it needs."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import ArtifactError, InputError, OptionError, missing_extra
from graphopt.runtime.artifact import Artifact
from graphopt.runtime.cuda_driver import Driver, DriverError
from graphopt.runtime.session import (
    Array,
    ArrayLike,
    ProfileRow,
    Session,
    TensorSpec,
    to_array,
)

__all__ = ["CudaSession"]

_FORMAT = 1


class CudaSession(Session):
    """A model on a GPU. Thread-safe: runs of several threads take turns on its stream.

    Kernels, weights, arena and pinned buffers are made once; a run copies inputs, replays a CUDA
    graph of copies and launches, and copies outputs. ``graph=False`` launches one by one.

    Raises ToolchainError (no driver, no device), ArtifactError (compiled for other GPUs or for a
    later driver), ExecutionError (too little memory).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: int = 0,
        graph: bool = True,
        library: str | None = None,
    ) -> None:
        self._artifact = Artifact.load(path)
        self._plan = plan = self._artifact.json("cuda.json")
        if plan.get("version") != _FORMAT:
            raise ArtifactError(
                f"cannot load '{path}': its CUDA program has version {plan.get('version')}, this "
                f"graphopt reads {_FORMAT}; recompile the model or update graphopt"
            )
        self._inputs = tuple(_spec(s) for s in plan["inputs"])
        self._outputs = tuple(_spec(s) for s in plan["outputs"])
        self._positions = {spec.name: i for i, spec in enumerate(self._inputs)}
        self._output_positions = {spec.name: i for i, spec in enumerate(self._outputs)}
        self._path = path
        self._lock = threading.Lock()
        self._run_lock = threading.Lock()
        self._executor = None
        self._driver = Driver(device, library)
        self._memory: list[int] = []
        self._pinned: list[int] = []
        self._stream = self._driver.stream()
        self._module = self._load_module()
        self._load_memory()
        self._steps = [self._step(step) for step in plan["steps"]]
        self._graph = self._driver.record(self._stream, self._enqueue) if graph else None

    # ---- loading ----

    def _load_module(self) -> ctypes.c_void_p:
        """The machine code that fits best: of the device itself, of its family, or PTX."""
        sm = self._driver.sm
        archs = self._plan["archs"]
        cubins = [a for a in archs if a["kind"] == "cubin"]
        fits = [a for a in cubins if a["sm"] // 10 == sm // 10 and a["sm"] <= sm]
        fits = sorted(fits, key=lambda a: -a["sm"])
        fits += [a for a in archs if a["kind"] == "ptx" and a["sm"] <= sm]
        if not fits:
            made = ", ".join(sorted({f"sm_{a['sm']}" for a in archs}))
            raise ArtifactError(
                f"{self._driver.name} is sm_{sm}, the artifact holds code for {made}; compile it "
                f"with --arch sm_{sm}"
            )
        problem = ""
        for arch in fits:
            try:
                return self._driver.module(self._artifact.read(arch["member"]) + b"\0")
            except DriverError as error:
                problem = str(error)
        version = self._driver.version
        raise ArtifactError(
            f"the driver (CUDA {version // 1000}.{version % 1000 // 10}) does not load the "
            f"artifact's code: {problem}; update the driver, or compile with --cuda-toolkit 12"
        )

    def _load_memory(self) -> None:
        plan, driver = self._plan, self._driver
        weights = np.frombuffer(self._artifact.read("weights"), np.uint8)
        self._bases = {}
        for key, nbytes, what in (
            ("w", weights.nbytes, "the weights"),
            ("a", int(plan["arena_bytes"]), "intermediate values"),
        ):
            self._bases[key] = driver.allocate(nbytes, what)
            self._memory.append(self._bases[key])
        driver.upload(self._bases["w"], weights.ctypes.data, weights.nbytes)
        offset, nbytes = plan["zero"]  # kernels leave it as they find it
        zeros = np.zeros(nbytes, np.uint8)
        driver.upload(self._bases["a"] + offset, zeros.ctypes.data, nbytes)
        self._buffers: dict[str, Array] = {}
        for side in ("inputs", "outputs"):
            for spec in plan[side]:
                pointer = driver.allocate_host(spec["bytes"])
                self._pinned.append(pointer)
                raw = (ctypes.c_uint8 * max(spec["bytes"], 1)).from_address(pointer)
                data = np.frombuffer(raw, np.uint8)[: spec["bytes"]]
                self._buffers[f"{side} {spec['name']}"] = data

    def _step(self, step: Mapping[str, Any]) -> tuple[Any, ...]:
        function = self._driver.function(self._module, step["kernel"], step["shared"])
        values = [ctypes.c_uint64(self._bases[w] + offset) for w, offset, _ in step["args"]]
        places = (ctypes.c_void_p * max(len(values), 1))(*[ctypes.addressof(v) for v in values])
        return function, (*step["grid"], *step["block"], step["shared"]), places, values

    def _enqueue(self) -> None:
        driver, stream = self._driver, self._stream
        for spec in self._plan["inputs"]:
            source = self._buffers[f"inputs {spec['name']}"].ctypes.data
            driver.send(self._bases["a"] + spec["offset"], source, spec["bytes"], stream)
        for step in self._steps:
            self._launch(step)
        for spec in self._plan["outputs"]:
            to = self._buffers[f"outputs {spec['name']}"].ctypes.data
            base = self._bases[spec["where"]]
            driver.fetch(to, base + spec["offset"], spec["bytes"], stream)

    def _launch(self, step: tuple[Any, ...]) -> None:
        function, shape, places, _ = step
        self._driver.call("cuLaunchKernel", function, *shape, self._stream, places, None)

    # ---- what it is ----

    @property
    def threads(self) -> int:
        """The threads of the host that a run uses."""
        return 1

    @property
    def isa(self) -> str:
        """The device's generation."""
        return f"sm_{self._driver.sm}"

    @property
    def host_nodes(self) -> tuple[str, ...]:
        """None: everything runs on the device."""
        return ()

    @property
    def device(self) -> str:
        """The GPU's name."""
        return self._driver.name

    @property
    def launches(self) -> int:
        """How many kernels a run launches."""
        return len(self._steps)

    def artifact(self) -> Artifact:
        """The artifact's manifest and members."""
        return self._artifact

    def arena_bytes(self, inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> int:
        """Memory for intermediate values, in bytes: the same for all inputs."""
        return int(self._plan["arena_bytes"])

    # ---- running ----

    def _execute(self, arrays: list[Array]) -> list[Array]:
        checked = [_checked(x, spec) for x, spec in zip(arrays, self._inputs, strict=True)]
        with self._run_lock:
            self._driver.activate()
            self._fill(checked)
            if self._graph is not None:
                self._driver.replay(self._graph, self._stream)
            else:
                self._enqueue()
            self._driver.synchronize(self._stream)
            return [self._output(spec) for spec in self._outputs]

    def profile(
        self, inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike], runs: int = 10
    ) -> list[ProfileRow]:
        """Time every launch in ``runs`` runs, after one to warm up: from the call to the end of the
        kernel, a few microseconds of launching included. Raises what `run` raises."""
        if runs < 1:
            raise OptionError(f"the number of runs is {runs}; it must be at least 1")
        arrays = self._arrays(inputs)
        self._execute(arrays)
        times: list[list[float]] = [[] for _ in self._steps]
        with self._run_lock:
            self._driver.activate()
            for _ in range(runs):
                for step, seen in zip(self._steps, times, strict=True):
                    started = time.perf_counter()
                    self._launch(step)
                    self._driver.synchronize(self._stream)
                    seen.append(1e6 * (time.perf_counter() - started))
        return [
            ProfileRow(step["name"], "cuda", step["kernel"], 0, statistics.median(seen), 1.0)
            for step, seen in zip(self._plan["steps"], times, strict=True)
        ]

    def _fill(self, arrays: Sequence[Array]) -> None:
        for spec, array in zip(self._inputs, arrays, strict=True):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._buffers[f"inputs {spec.name}"][...] = data

    def _output(self, spec: TensorSpec) -> Array:
        data = self._buffers[f"outputs {spec.name}"]
        shape = tuple(size for size in spec.shape if isinstance(size, int))
        return data.copy().view(_dtype(spec.dtype)).reshape(shape)

    def close(self) -> None:
        """Gives the device's memory back; the session is of no use afterwards."""
        with self._run_lock:
            memory, self._memory = self._memory, []
            pinned, self._pinned = self._pinned, []
            for pointer in memory:
                self._driver.free(pointer)
            for pointer in pinned:
                self._driver.free_host(pointer)

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self._inputs))
        outputs = ", ".join(map(str, self._outputs))
        return f"CudaSession({inputs} -> {outputs})"


def _dtype(name: str) -> np.dtype[Any]:
    try:
        return np.dtype(name)
    except TypeError:
        if importlib.util.find_spec("ml_dtypes") is None:
            raise missing_extra("ml_dtypes", "onnx") from None
        found: np.dtype[Any] = np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
        return found


def _spec(spec: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"]))


def _checked(value: ArrayLike, spec: TensorSpec) -> Array:
    array = np.asarray(to_array(value, spec))
    if array.dtype.name != spec.dtype or array.shape != spec.shape:
        shape = ", ".join(map(str, array.shape))
        raise InputError(
            f"input '{spec.name}': expected {spec.type}, got {array.dtype.name}[{shape}]"
        )
    return array
