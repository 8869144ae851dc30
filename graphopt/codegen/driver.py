"""Compiling groups: plan, emit, build, remember.

A module holds all kernels of a compilation for one ISA level; it is cached as a whole, under a key
made of the kernels' canonical texts. A hit needs no tvm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.codegen.cache import Cache, default_folder
from graphopt.codegen.expr import Refusal, compute_type
from graphopt.codegen.isa import isa as isa_level
from graphopt.codegen.kernel import Kernel, plan_kernel
from graphopt.codegen.request import (
    CompiledObjects,
    KernelInfo,
    KernelRequest,
    canonical_text,
    kernel_hash,
    symbol_order,
)
from graphopt.codegen.toolchain import load_tvm
from graphopt.ir import Dim, Graph, Node, TensorType, parse_dim, substitute, sym
from graphopt.ir.clone import copy_nodes

if TYPE_CHECKING:
    from graphopt.codegen.cabi import Function

__all__ = ["can_emit", "compile_kernels", "emit_assembly", "emit_text"]

_TVM = "0.27.0.post1"


@once
def _generation() -> str:
    """Digest of the generator's own sources, part of every cache key: any line may change code."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def compile_kernels(
    requests: Sequence[KernelRequest],
    levels: Sequence[str],
    *,
    cache: Path | bool | None = True,
) -> CompiledObjects:
    """Object code for every request at every ISA level.

    ``levels`` are names of :data:`~graphopt.codegen.isa.LEVELS`. ``cache`` is the folder to keep
    results in, True for the default one, False or None for none. Requests that need the same code
    share a kernel. The result only depends on the requests.

    Raises Refusal for a request that cannot be generated (:func:`can_emit` tells beforehand),
    CompileError when LLVM fails, ToolchainError when tvm is needed and not installed, OptionError
    for an unknown level.
    """
    folder = default_folder() if cache is True else cache or None
    store = Cache(folder)
    texts = [canonical_text(request.body) for request in requests]
    hashes = [kernel_hash(text) for text in texts]
    unique = {h: k for k, h in reversed(list(enumerate(hashes)))}
    order = sorted(unique)
    for level in levels:
        isa_level(level)
    key = "\n".join([_generation(), _TVM, ",".join(levels), *(texts[unique[h]] for h in order)])
    found = store.get("infos\n" + key)
    objects = {level: store.get(f"object {level}\n{key}") for level in levels}
    if found is None or any(data is None for data in objects.values()):
        kernels = [_plan(requests[unique[h]], h) for h in order]
        fresh, dims = _build(kernels, levels)
        found = json.dumps(
            {k.symbol: _describe(k, d) for k, d in zip(kernels, dims, strict=True)},
            sort_keys=True,
        ).encode()
        for level, data in fresh.items():
            store.put(f"object {level}\n{key}", data)
        store.put("infos\n" + key, found)
        objects = dict(fresh)
    described = json.loads(found)
    infos = tuple(
        _info(request, described[f"k_{h}"], f"k_{h}")
        for request, h in zip(requests, hashes, strict=True)
    )
    return CompiledObjects({k: v for k, v in objects.items() if v is not None}, infos)


def _plan(request: KernelRequest, digest: str) -> Kernel:
    try:
        return plan_kernel(request.body, f"k_{digest}")
    except Refusal as refusal:
        raise Refusal(f"group '{request.name or request.body.name}': {refusal}") from None


def _build(
    kernels: Sequence[Kernel], levels: Sequence[str]
) -> tuple[dict[str, bytes], list[tuple[Dim, ...]]]:
    """Objects by level, and the sizes that each kernel takes as parameters (alike for all)."""
    if not kernels:
        return dict.fromkeys(levels, b""), []
    load_tvm()
    from graphopt.codegen import cabi, emit

    dims: list[tuple[Dim, ...]] = [()] * len(kernels)
    emitted: dict[tuple[str, int], tuple[Function, tuple[Dim, ...]]] = {}
    for level in levels:
        for k, kernel in enumerate(kernels):
            found = emit.emit_kernel(kernel, isa_level(level), dims[k])
            emitted[level, k] = found
            dims[k] = found[1]

    def function(level: str, k: int, guard: bool) -> Function:
        made, needed = emitted[level, k]
        if guard or needed != dims[k]:
            made = emit.emit_kernel(kernels[k], isa_level(level), dims[k], guard)[0]
        return made

    result: dict[str, bytes] = {}
    for level in levels:
        for guard in (False, True):
            functions = [function(level, k, guard) for k in range(len(kernels))]
            try:
                result[level] = cabi.build_object(functions, isa_level(level))
                break
            except cabi.UndefinedSymbols:
                # Something simplified to a copy or a fill.
                if guard:
                    raise
    return result, dims


def _describe(kernel: Kernel, dims: Sequence[Dim]) -> dict[str, Any]:
    return {
        "arguments": [list(a) for a in kernel.arguments],
        "dims": [str(d) for d in dims],
        "extent": str(kernel.extent),
        "grain": kernel.grain,
        "flops": str(kernel.flops),
        "bytes": str(kernel.bytes),
    }


def _info(request: KernelRequest, described: dict[str, Any], symbol: str) -> KernelInfo:
    names: dict[str, Dim] = {f"s{i}": sym(n) for i, n in enumerate(symbol_order(request.body))}

    def dim(text: str) -> Dim:
        return substitute(parse_dim(text), names)

    arguments = tuple((str(side), int(k)) for side, k in described["arguments"])
    sides: dict[str, Sequence[Any]] = {"input": request.operands, "output": request.results}
    args = tuple(sides[side][k] for side, k in arguments) if request.results else ()
    return KernelInfo(
        symbol,
        arguments,
        tuple(dim(text) for text in described["dims"]),
        dim(described["extent"]),
        int(described["grain"]),
        dim(described["flops"]),
        dim(described["bytes"]),
        args,
    )


# ---- questions ----


def can_emit(node: Node) -> str | None:
    """Why a node cannot be generated; None when it can.

    ``node`` is a ``graphopt.cpu::group``, or an op as it stands in a graph: then constants of one
    element and operands with known contents are taken to be part of the kernel.
    """
    try:
        plan_kernel(_body_of(node), "k")
    except Refusal as refusal:
        return str(refusal)
    return None


def _body_of(node: Node) -> Graph:
    body = node.attrs.get("body")
    if isinstance(body, Graph) and node.op.domain == "graphopt.cpu":
        return body
    if node.regions:
        raise Refusal(f"{node.op.qualified} holds a graph")
    graph = Graph("node")
    mapping = {}
    for value in node.inputs:
        if value is None or value in mapping:
            continue
        if not isinstance(value.type, TensorType):
            raise Refusal(f"'{value.name}' is {value.type}, not a tensor")
        small = value.constant is not None and value.constant.numel <= 1
        if small and value.constant is not None:
            mapping[value] = graph.add_constant(value.constant, value.name)
        else:
            mapping[value] = graph.add_input(value.name, value.type)
            mapping[value].set_elements(value.elements)
    for value in node.outputs:
        if not isinstance(value.type, TensorType):
            raise Refusal(f"'{value.name}' is {value.type}, not a tensor")
    for value in (*mapping, *node.outputs):
        assert isinstance(value.type, TensorType)
        compute_type(value.type.dtype)
    copy_nodes([node], graph, mapping)
    for value in node.outputs:
        graph.add_output(mapping[value])
    return graph


def emit_text(request: KernelRequest, level: str) -> str:
    """The TIR that a request becomes at one ISA level, to look at."""
    load_tvm()
    from graphopt.codegen import cabi, emit

    kernel = _plan(request, kernel_hash(canonical_text(request.body)))
    function, dims = emit.emit_kernel(kernel, isa_level(level), ())
    function, _ = emit.emit_kernel(kernel, isa_level(level), dims)
    return cabi.print_function(function, isa_level(level))


def emit_assembly(request: KernelRequest, level: str) -> str:
    """The assembly that a request becomes at one ISA level, to look at."""
    load_tvm()
    from graphopt.codegen import cabi, emit

    kernel = _plan(request, kernel_hash(canonical_text(request.body)))
    function, _ = emit.emit_kernel(kernel, isa_level(level), ())
    return cabi.assemble([function], isa_level(level))
