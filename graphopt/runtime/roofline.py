"""How near a step comes to what the machine can do: operations and bytes beside measured peaks.

The roofline model: a step cannot be faster than its operations at the peak rate of multiply-adds,
nor than its operands and results at the bandwidth of memory (S. Williams et al., Roofline, CACM 52,
2009). Operands that are still in a cache beat the second bound, so a share may exceed 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from graphopt import _native

__all__ = ["Peaks", "Work", "measure_peaks", "plan_choices", "plan_work"]


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the machine reaches: multiply and add operations, and bytes from memory, a second."""

    flops: float
    bandwidth: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one call of a step does; `flops` is None where it is not counted (generated code, and
    kernels that are not products)."""

    flops: float | None
    nbytes: float

    def seconds(self, peaks: Peaks) -> tuple[float, str]:
        """The least time by the roofline, and what bounds it: "compute" or "memory"."""
        compute = (self.flops or 0.0) / peaks.flops
        memory = self.nbytes / peaks.bandwidth
        return (compute, "compute") if compute >= memory else (memory, "memory")


@lru_cache(maxsize=4)
def measure_peaks(threads: int) -> Peaks:
    """Measures the machine on ``threads`` threads, half a second: multiply-adds that touch no
    memory, and a product of a vector with a matrix that only memory holds."""
    return Peaks(_native.multiply_add_rate(threads), _bandwidth(4096, 16384, threads))


def _bandwidth(k: int, n: int, threads: int) -> float:
    a = np.full((1, k), 0.5, np.float32)
    w = np.full(k * n, 0.25, np.float32)  # the packed form of equal numbers
    best = math.inf
    for _ in range(7):
        started = time.perf_counter()
        _native.run_kernel("gemm", [a, w], [("float32", [1, n])], {"k": k, "n": n}, threads)
        best = min(best, time.perf_counter() - started)
    return 4.0 * k * n / best


# What a step's attributes say when a measurement chose it, as the option `choices` spells it.
_SHARES = {1: "rows", 2: "columns"}


def plan_choices(plan: Mapping[str, Any]) -> list[str]:
    """What a measurement chose for every step, in the order of a profile's rows: "tile3", "rows",
    both, or "" for the default."""
    return [_choice(step.get("attrs", {})) for step in _flat(plan["steps"])]


def _choice(attrs: Mapping[str, Any]) -> str:
    tile = f"tile{attrs['tile']}" if attrs.get("tile") else ""
    return " ".join(filter(None, [tile, _SHARES.get(attrs.get("share", 0), "")]))


def plan_work(
    plan: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
) -> list[tuple[str, Work | None]]:
    """(name, work) of every step, in the order of a profile's rows, for inputs of ``shapes``.

    None where a size is only known when the model runs, and for steps that do no work of their own.
    """
    sizes = _Sizes(plan, shapes)
    return [(step.get("name", ""), _work(step, sizes)) for step in _flat(plan["steps"])]


def _flat(steps: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for step in steps:
        yield step
        for key in ("then", "else", "body"):
            yield from _flat(step.get(key, ()))


class _Sizes:
    """Shapes of values for one tuple of input shapes."""

    def __init__(self, plan: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> None:
        self.values = plan["values"]
        bound: dict[int, int] = {}
        for index in plan["inputs"]:
            value = self.values[index]
            for dim, size in zip(value["shape"], shapes[value["name"]], strict=True):
                entry = plan["dims"][dim]
                if isinstance(entry, dict):
                    bound.setdefault(entry["sym"], int(size))
        self.dims: list[int | None] = []
        for entry in plan["dims"]:
            self.dims.append(self._dim(entry, bound))

    def _dim(self, entry: Any, bound: Mapping[int, int]) -> int | None:
        if isinstance(entry, int):
            return entry
        if isinstance(entry, dict):
            return bound.get(entry["sym"])
        name, *indices = entry
        args = [self.dims[i] for i in indices]
        if None in args:
            return None
        result: int | None = _OPERATORS[name](*args)
        return result

    def shape(self, value: int | None) -> list[int] | None:
        """The shape of a value; None when it is absent or unknown."""
        if value is None:
            return None
        dims = [self.dims[i] for i in self.values[value]["shape"]]
        return None if None in dims else [d for d in dims if d is not None]

    def nbytes(self, value: int | None) -> float:
        """Bytes of a value, 0 when it is absent or unknown."""
        shape = self.shape(value)
        if value is None or shape is None:
            return 0.0
        return math.prod(shape) * _ELEMENT_BYTES.get(self.values[value]["dtype"], 1.0)


_OPERATORS: dict[str, Any] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b if b else None,
    "%": lambda a, b: a % b if b else None,
    "min": min,
    "max": max,
    "bcast": lambda a, b: a if b == 1 else b,
    "ne1": lambda a: int(a != 1),
}
# By ONNX's number of the type; those of one byte are left out.
_ELEMENT_BYTES = {
    1: 4.0, 4: 2.0, 5: 2.0, 6: 4.0, 7: 8.0, 10: 2.0, 11: 8.0, 12: 4.0, 13: 8.0, 14: 8.0, 15: 16.0,
    16: 2.0,
}  # fmt: skip


def _work(step: Mapping[str, Any], sizes: _Sizes) -> Work | None:
    kind = step["kind"]
    if kind == "native":
        values = [*step["inputs"], *step["outputs"]]
    elif kind == "object":
        values = list(step["args"])
    else:
        return None
    known = [v for v in values if v is not None]
    if any(sizes.shape(v) is None for v in known):
        return None
    flops = _FLOPS.get(step.get("kernel", ""), lambda *_: None)(step, sizes)
    return Work(flops, sum(sizes.nbytes(v) for v in set(known)))


def _shapes(step: Mapping[str, Any], sizes: _Sizes) -> tuple[list[list[int]], list[int]]:
    inputs = [sizes.shape(v) or [] for v in step["inputs"]]
    return inputs, sizes.shape(step["outputs"][0]) or []


def _gemm(step: Mapping[str, Any], sizes: _Sizes) -> float:
    _, out = _shapes(step, sizes)
    return 2.0 * math.prod(out) * float(step["attrs"]["k"])


def _conv(step: Mapping[str, Any], sizes: _Sizes) -> float:
    """Of the direct sum: a Winograd step may exceed the peak."""
    _, out = _shapes(step, sizes)
    attrs = step["attrs"]
    depth: int = math.prod(attrs["kernel_shape"]) * attrs["cin"] // attrs.get("group", 1)
    return 2.0 * math.prod(out) * depth


def _conv_chain(step: Mapping[str, Any], sizes: _Sizes) -> float:
    """Of all convolutions, each value counted once."""
    inputs, out = _shapes(step, sizes)
    attrs = step["attrs"]
    channels = attrs["channels"]
    total: float = math.prod(attrs["kernel_shape"]) * channels * math.prod(out[:-1])
    if "expand_kernel_shape" in attrs:
        kernel, strides = attrs["expand_kernel_shape"], attrs["expand_strides"]
        pads, dilations = attrs["expand_pads"], attrs["expand_dilations"]
        positions = inputs[0][0]
        for axis in range(2):
            room = inputs[0][axis + 1] + pads[axis] + pads[axis + 2]
            positions *= (room - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        total += positions * channels * math.prod(kernel) * attrs["cin"]
    if attrs.get("projects"):
        total += math.prod(out) * channels
    return 2.0 * total


def _conv_transpose(step: Mapping[str, Any], sizes: _Sizes) -> float:
    inputs, _ = _shapes(step, sizes)
    attrs = step["attrs"]
    depth: int = math.prod(attrs["kernel_shape"]) * attrs["cout"] // attrs.get("group", 1)
    return 2.0 * math.prod(inputs[0]) * depth


def _matmul(step: Mapping[str, Any], sizes: _Sizes) -> float:
    inputs, out = _shapes(step, sizes)
    depth = inputs[0][-2 if step["attrs"].get("trans_a") else -1]
    return 2.0 * math.prod(out) * depth


def _attention(step: Mapping[str, Any], sizes: _Sizes) -> float:
    """Of both products, whatever a mask leaves out."""
    inputs, _ = _shapes(step, sizes)
    attrs, (q, k, v) = step["attrs"], inputs[:3]
    heads = q[1] if len(q) == 4 else attrs["heads"]
    size = q[3] if len(q) == 4 else attrs["size"]
    value_size = v[3] if len(v) == 4 else attrs["value_size"]
    return 2.0 * q[0] * heads * q[-2] * k[-2] * (size + value_size)


_FLOPS: dict[str, Any] = {
    "attention": _attention,
    "gemm": _gemm,
    "conv": _conv,
    "conv_winograd": _conv,
    "conv_chain": _conv_chain,
    "conv_transpose": _conv_transpose,
    "matmul": _matmul,
}
