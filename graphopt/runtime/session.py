"""Running an artifact from Python."""

from __future__ import annotations

import importlib.util
import os
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphopt import _native
from graphopt.errors import (
    ArtifactError,
    ExecutionError,
    GraphoptError,
    InputError,
    OptionError,
    missing_extra,
)
from graphopt.runtime.dtypes import CODES, FIRST_OF_ML_DTYPES, NAMES

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from graphopt.runtime.artifact import Artifact

__all__ = ["ProfileRow", "Session", "TensorSpec", "load", "open_artifact", "to_array"]

Array = npt.NDArray[Any]
# What an input may be: arrays, anything that speaks DLPack, Python numbers and lists of them.
ArrayLike = Any


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model.

    `dtype` is numpy's (or ml_dtypes') name of the element type. In `shape`, a string is a size that
    the inputs decide: a symbol such as "N", which has one value in a run, or an expression of some.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def type(self) -> str:
        """Element type and shape as one text, such as "float32[N, 3]"."""
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


@dataclass(frozen=True)
class ProfileRow:
    """What one step of a model costs.

    `microseconds` is the time a run spends in the step by itself (without the steps of its body),
    the median of all runs; `calls` how often a run executes it, `depth` how many bodies it lies in.
    """

    name: str
    kind: str
    kernel: str
    depth: int
    microseconds: float
    calls: float


class _HostNodes:
    """Evaluates the nodes that no kernel computes, by the reference interpreter."""

    def __init__(self) -> None:
        self.texts: Sequence[str] = ()
        self._functions: dict[int, Callable[[list[Any]], Sequence[Any]]] = {}

    def __call__(self, node: int, inputs: list[Any]) -> Sequence[Any]:
        function = self._functions.get(node)
        if function is None:
            # The compiler's side of the package; a model without host nodes never needs it.
            from graphopt.backends.reference import evaluate_text

            function = self._functions[node] = evaluate_text(self.texts[node])
        try:
            results = function(inputs)
        except GraphoptError as error:  # of the compiler's side, which speaks of models
            raise ExecutionError(str(error)) from None
        return [None if x is None else np.asarray(x) for x in results]


class Session:
    """A loaded model, ready to run. Thread-safe: any number of threads may run it at once.

    Made by `load`. Arrays that are C-contiguous and 16-byte aligned are read where they are;
    outputs are new arrays that belong to the caller.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"the number of threads is {threads}; it must be at least 1")
        host = _HostNodes()
        try:
            self._program = _native.Program(source, threads or 0, host)
        except _native.NativeError as error:
            raise ArtifactError(str(error)) from None
        except UnicodeDecodeError:  # of the message, which quotes the file
            where = "the artifact" if isinstance(source, bytes) else f"'{os.fspath(source)}'"
            raise ArtifactError(
                f"cannot load {where}: the artifact is damaged: a name in it is not UTF-8"
            ) from None
        host.texts = self._program.host_nodes
        _require_types(self._program.inputs + self._program.outputs)
        self._path = None if isinstance(source, bytes) else source
        self._inputs = _specs(self._program.inputs)
        self._outputs = _specs(self._program.outputs)
        self._positions = {spec.name: i for i, spec in enumerate(self._inputs)}
        self._output_positions = {spec.name: i for i, spec in enumerate(self._outputs)}
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs, in order."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The model's outputs, in order."""
        return self._outputs

    @property
    def threads(self) -> int:
        """How many threads a run may use."""
        return self._program.threads

    @property
    def isa(self) -> str:
        """The instruction-set level of the generated code in use ("" where there is none)."""
        return self._program.object_level

    @property
    def host_nodes(self) -> tuple[str, ...]:
        """The nodes that run in the reference interpreter, as `.gir` text."""
        return tuple(self._program.host_nodes)

    def artifact(self) -> Artifact:
        """The artifact's manifest and members. Raises ArtifactError where it was not a file."""
        if self._path is None:
            raise ArtifactError("the session was not loaded from a file")
        from graphopt.runtime.artifact import Artifact

        return Artifact.load(self._path)

    def run(
        self,
        inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike],
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Array]:
        """Run the model.

        Args:
            inputs: arrays by name, or in order. Anything with `__dlpack__` (a torch tensor, say) is
                taken without a copy; Python numbers and lists become arrays of the input's type.
            outputs: names of the wanted outputs; all by default.

        Returns:
            The outputs by name, in the order asked for.

        Raises:
            InputError: a name, element type or shape that the model does not take.
            ExecutionError: values that an operator forbids (an index out of range, say).
        """
        wanted = self._wanted(outputs)
        results = self._execute(self._arrays(inputs))
        return {self._outputs[i].name: results[i] for i in wanted}

    def __call__(self, *arrays: ArrayLike, **named: ArrayLike) -> Array | tuple[Array, ...]:
        """Run on arrays in order, or by keyword; the array that comes out, or a tuple of several.

        Raises what `run` raises.
        """
        if arrays and named:
            raise InputError("give inputs in order or by name, not both")
        results = tuple(self._execute(self._arrays(named or arrays)))
        return results[0] if len(results) == 1 else results

    def submit(
        self,
        inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike],
        outputs: Sequence[str] | None = None,
    ) -> Future[dict[str, Array]]:
        """`run` in the background. Inputs are checked at once; they must not change meanwhile."""
        wanted = self._wanted(outputs)
        arrays = self._arrays(inputs)

        def work() -> dict[str, Array]:
            results = self._execute(arrays)
            return {self._outputs[i].name: results[i] for i in wanted}

        with self._lock:
            if self._executor is None:
                from concurrent.futures import ThreadPoolExecutor

                self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="graphopt")
            return self._executor.submit(work)

    def profile(
        self, inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike], runs: int = 10
    ) -> list[ProfileRow]:
        """Time every step in `runs` runs, after one to warm up. Raises what `run` raises."""
        if runs < 1:
            raise OptionError(f"the number of runs is {runs}; it must be at least 1")
        arrays = self._arrays(inputs)
        return [ProfileRow(*row) for row in _translated(self._program.profile, arrays, runs)]

    def arena_bytes(self, inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> int:
        """Memory for intermediate values that a run on such inputs plans, in bytes."""
        return int(_translated(self._program.arena_bytes, self._arrays(inputs)))

    def _execute(self, arrays: list[Array]) -> list[Array]:
        results: list[Array] = _translated(self._program.run, arrays)
        return results

    def _wanted(self, outputs: Sequence[str] | None) -> Sequence[int]:
        if outputs is None:
            return range(len(self._outputs))
        unknown = [name for name in outputs if name not in self._output_positions]
        if unknown:
            raise InputError(f"unknown output '{unknown[0]}'; {_listing('output', self._outputs)}")
        return [self._output_positions[name] for name in outputs]

    def _arrays(self, inputs: Mapping[str, ArrayLike] | Sequence[ArrayLike]) -> list[Array]:
        if isinstance(inputs, Mapping):
            for name in inputs:
                if name not in self._positions:
                    raise InputError(f"unknown input '{name}'; {_listing('input', self._inputs)}")
            missing = [spec for spec in self._inputs if spec.name not in inputs]
            if missing:
                raise InputError(
                    f"input '{missing[0].name}' is missing; expected {missing[0].type}"
                )
            return [to_array(inputs[spec.name], spec) for spec in self._inputs]
        if isinstance(inputs, np.ndarray) or not isinstance(inputs, Sequence):
            raise InputError("give a dictionary of arrays by name, or a list of arrays in order")
        if len(inputs) != len(self._inputs):
            listing = _listing("input", self._inputs)
            raise InputError(f"expected {len(self._inputs)} inputs, got {len(inputs)}; {listing}")
        return [to_array(x, spec) for x, spec in zip(inputs, self._inputs, strict=True)]

    def __repr__(self) -> str:
        inputs = ", ".join(map(str, self._inputs))
        outputs = ", ".join(map(str, self._outputs))
        return f"Session({inputs} -> {outputs})"


def load(path: str | os.PathLike[str] | bytes, threads: int | None = None) -> Session:
    """Load an artifact from a file, or from the bytes of one.

    Args:
        path: the `.gopt` file. One that was compiled for CUDA runs on the first device.
        threads: how many threads a run may use; by default as many as there are processors.

    Raises:
        ArtifactError: when the file cannot be read, is truncated, altered or foreign, or was
            compiled for another format version or processor.
        ToolchainError: when it was compiled for CUDA and there is no driver or device.
    """
    if not isinstance(path, bytes) and _is_cuda(path):
        from graphopt.runtime.cuda_session import CudaSession

        return CudaSession(path)
    return Session(path, threads)


def open_artifact(artifact: Artifact, threads: int | None = None) -> Session:
    """A session on an artifact that is saved nowhere, with weights mapped as those of a file are.

    Raises what :func:`load` does.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "model.gopt"
        artifact.save(path)
        # What is mapped stays when its name goes.
        return load(path, threads)


def _is_cuda(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as an artifact with a CUDA program does. Nothing is checked here: the
    loader of either kind does."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(30)
            if len(head) < 30 or head[:4] != b"PK\x03\x04":
                return False
            size, name, extra = struct.unpack_from("<IHH", head, 22)
            file.seek(name + extra, os.SEEK_CUR)
            return b'"cuda.json"' in file.read(min(size, 1 << 24))
    except OSError:
        return False


def _specs(arguments: Sequence[tuple[str, int, list[str]]]) -> tuple[TensorSpec, ...]:
    def dim(text: str) -> int | str:
        return int(text) if text.isdecimal() else text

    return tuple(TensorSpec(n, NAMES[code], tuple(map(dim, s))) for n, code, s in arguments)


def _require_types(arguments: Sequence[tuple[str, int, list[str]]]) -> None:
    """Types that numpy itself does not have need ml_dtypes: say so now, not in the first run."""
    if all(code < FIRST_OF_ML_DTYPES for _, code, _ in arguments):
        return
    if importlib.util.find_spec("ml_dtypes") is None:
        raise missing_extra("ml_dtypes", "onnx")


def _listing(what: str, specs: Sequence[TensorSpec]) -> str:
    if not specs:
        return f"the model has no {what}s"
    return f"the model has {what}s {', '.join(str(spec) for spec in specs)}"


def to_array(value: ArrayLike, spec: TensorSpec) -> Array:
    """What a caller gave for an input, as an array; arrays pass as they are. Raises InputError."""
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
            return np.from_dlpack(value)
        if hasattr(value, "__array__"):
            return np.asarray(value)
        if CODES[spec.dtype] >= FIRST_OF_ML_DTYPES:
            raise TypeError("numbers do not convert to this type by themselves; give an array")
        return np.asarray(value, dtype=spec.dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError, BufferError) as error:
        raise InputError(
            f"input '{spec.name}': expected {spec.type}, got {type(value).__name__}: {error}"
        ) from error


def _translated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls into the native module; its errors become ours."""
    try:
        return function(*arguments)
    except _native.NativeInputError as error:
        raise InputError(str(error)) from None
    except _native.NativeError as error:
        raise ExecutionError(str(error)) from None
