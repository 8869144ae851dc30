"""Launches of products, windows and attention: templates of ``kernels/`` with their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.backends.cuda.groups import group_text, tail_text
from graphopt.backends.cuda.ops import OPERANDS, tail_of
from graphopt.backends.cuda.text import Kernels, Parameter
from graphopt.backends.cuda.tiles import choose
from graphopt.codegen.ctext import storage
from graphopt.codegen.expr import compute_type
from graphopt.ir import DType, Node, Value

__all__ = ["Launch", "Workspace", "launch_of"]


@dataclass(frozen=True)
class Workspace:
    """Memory that a launch needs for itself. With ``zero`` it is 0 before the launch, which leaves
    it so; all launches share it."""

    nbytes: int
    zero: bool = False


@dataclass(frozen=True)
class Launch:
    """A kernel, its shape, and what its parameters are, with which of them it writes."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared: int
    args: tuple[Value | Workspace, ...]
    writes: tuple[bool, ...]


def launch_of(node: Node, kernels: Kernels) -> Launch:
    """The launch of a lowered node. Raises Refusal for a group without CUDA text."""
    if node.op.name == "group":
        return _group(node, kernels)
    tail = _Tail(node)
    if node.op.name == "product":
        return _product(node, kernels, tail)
    if node.op.name == "attention":
        return _attention(node, kernels, tail)
    return _window(node, kernels, tail)


def _group(node: Node, kernels: Kernels) -> Launch:
    text = group_text(node.attrs["body"])
    stem = str(node.attrs.get("kind") or "group")
    name = kernels.add(stem, text.parameters, text.body, text.threads)
    args = [node.inputs[k] if side == "input" else node.outputs[k] for side, k in text.tensors]
    values = tuple(v for v in args if v is not None)
    writes = tuple(p.written for p in text.parameters)
    return Launch(name, (text.blocks, 1, 1), text.threads, text.shared, values, writes)


def _type(value: Value) -> str:
    dtype = value.tensor.dtype
    return storage(dtype, compute_type(dtype))


class _Tail:
    """The epilogue of a node as a struct of its own."""

    def __init__(self, node: Node) -> None:
        body = tail_of(node)
        if body is None:
            kind = _type(node.output)
            self.parameters: tuple[Parameter, ...] = (Parameter("a0", kind, True),)
            self.values: tuple[Value, ...] = (node.output,)
            text = f"    a0[i] = go::encode<{kind}>(sum);"
        else:
            self.parameters, tensors, text = tail_text(body)
            own = OPERANDS[node.op.name]
            found = [
                node.output if side == "output" else node.inputs[own + k - 1] for side, k in tensors
            ]
            self.values = tuple(v for v in found if v is not None)
        fields = " ".join(f"{p.field};" for p in self.parameters)
        self.struct = (
            f"struct @_tail {{\n  {fields}\n"
            f"  GO_DEVICE void operator()(int i, float sum) const {{\n{text}\n  }}\n}};"
        )
        names = ", ".join(p.name for p in self.parameters)
        self.make = f"  const @_tail tail{{{names}}};"

    @property
    def writes(self) -> tuple[bool, ...]:
        return tuple(p.written for p in self.parameters)


def _numbers(values: Mapping[str, Any]) -> str:
    fields = ", ".join(f"{key.upper()} = {int(value)}" for key, value in values.items())
    return f"struct @_p {{ static constexpr int {fields}; "


def _product(node: Node, kernels: Kernels, tail: _Tail) -> Launch:
    x, w = node.inputs[:2]
    assert x is not None and w is not None
    a = {key: int(v) for key, v in node.attrs.items() if key != "tail"}
    kind = "f16" if x.tensor.dtype is DType.F16 else "f32"
    lanes = 8 if kind == "f16" else 4
    vector = all(a[key] % lanes == 0 for key in ("c", "ld", "xz"))
    tile = choose(kind, a["m"], a["n"], a["k"], a["z"], vector)
    shape = {"bm": tile.bm, "bn": tile.bn, "split": tile.split, "vector": vector}
    if kind == "f16":
        shape |= {"wm": tile.wm, "wn": tile.wn, "stages": tile.stages}
    else:
        shape |= {"tm": tile.wm, "tn": tile.wn}
    type = "go::f16" if kind == "f16" else "float"
    threads = tile.threads(kind)
    before = f"{_numbers(a | shape)}}};\n{tail.struct}"
    operands: tuple[Parameter, ...] = (Parameter("x", type), Parameter("w", type))
    grid = (-(-a["m"] // tile.bm), -(-a["n"] // tile.bn), a["z"] * tile.split)
    values: list[Value | Workspace] = [x, w]
    rooms = "nullptr, nullptr"
    if tile.split > 1:
        operands += (Parameter("partial", "float", True), Parameter("counters", "int", True))
        rooms = "partial, counters"
        parts = Workspace(4 * a["z"] * tile.split * a["m"] * a["n"])
        values += [parts, Workspace(4 * grid[0] * grid[1] * a["z"], zero=True)]
    body = f"{tail.make}\n  go::gemm_{kind}<@_p>(x, w, {rooms}, tail);"
    name = kernels.add(
        f"gemm_{kind}", (*operands, *tail.parameters), body, threads, before=before, uses="gemm"
    )
    writes = (*(p.written for p in operands), *tail.writes)
    shared = tile.shared(kind)
    return Launch(name, grid, threads, shared, (*values, *tail.values), writes)


def _window(node: Node, kernels: Kernels, tail: _Tail) -> Launch:
    x = node.inputs[0]
    assert x is not None
    a = {key: int(v) for key, v in node.attrs.items() if key != "tail"}
    size = x.tensor.dtype.nbytes
    lanes = 16 // size
    while a["c"] % lanes:
        lanes //= 2
    total = a["batch"] * a["oh"] * a["ow"] * a["c"] // lanes
    names = ["x", "w"][: OPERANDS[node.op.name]]
    operands = tuple(Parameter(name, _type(x)) for name in names)
    body = f"{tail.make}\n  go::{node.op.name}<@_p>({', '.join(names)}, tail);"
    before = f"{_numbers(a | {'v': lanes, 'total': total})}}};\n{tail.struct}"
    threads = 128
    name = kernels.add(
        node.op.name, (*operands, *tail.parameters), body, threads, before=before, uses="window"
    )
    values = tuple(v for v in node.inputs[: len(names)] if v is not None)
    writes = (*[False] * len(names), *tail.writes)
    return Launch(name, (-(-total // threads), 1, 1), threads, 0, (*values, *tail.values), writes)


def _attention(node: Node, kernels: Kernels, tail: _Tail) -> Launch:
    q, k, v, mask = (node.input(i) for i in range(4))
    assert q is not None and k is not None and v is not None
    a = node.attrs
    numbers = {
        "heads": a["heads"], "share": a["share"], "q": a["q"], "k": a["keys"], "d": a["size"],
        "dv": a["width"], "causal": a["causal"], "offset": a["offset"], "zero": a["zero"],
        "cap": a["cap"] != 0.0, "mask": 0, "q0": a["q_begin"], "k0": a["k_begin"],
        "v0": a["v_begin"],
    }  # fmt: skip
    for name in "qkvo":
        numbers |= dict(
            zip((f"{name}b", f"{name}h", f"{name}l"), a[f"{name}_strides"], strict=True)
        )
    numbers |= dict.fromkeys(("mb", "mh", "ml", "mk"), 0)
    operands = [Parameter(name, _type(q)) for name in "qkv"]
    values: list[Value] = [q, k, v]
    if mask is not None:
        numbers["mask"] = 2 if mask.tensor.dtype is DType.BOOL else 1
        numbers |= dict(zip(("mb", "mh", "ml", "mk"), a["mask_strides"], strict=True))
        operands.append(Parameter("mask", _type(mask)))
        values.append(mask)
    functions = " ".join(
        f"static GO_DEVICE float {name}() {{ return {_literal(float(a[key]))}; }}"
        for name, key in (("scale", "scale"), ("cap_value", "cap"), ("fill", "fill"))
    )
    before = f"{_numbers(numbers)}{functions} }};\n{tail.struct}"
    given = "mask" if mask is not None else "(const float*)nullptr"
    body = f"{tail.make}\n  go::attention<@_p>(q, k, v, {given}, tail);"
    name = kernels.add(
        "attention", (*operands, *tail.parameters), body, 128, before=before, uses="attention"
    )
    size, width = int(a["size"]), int(a["width"])
    shared = 4 * (32 * (size + 1) + 32 * width + 4 * size)
    grid = (math.ceil(int(a["q"]) / 4), int(a["heads"]), int(a["batch"]))
    writes = (*[False] * len(values), *tail.writes)
    return Launch(name, grid, 128, shared, (*values, *tail.values), writes)


def _literal(value: float) -> str:
    if math.isfinite(value):
        return f"{value.hex()}f" if value != int(value) else f"{value!r}f"
    bits = 0x7FC00000 if math.isnan(value) else 0x7F800000 if value > 0 else 0xFF800000
    return f"__uint_as_float({bits:#x}u)"
