"""From emitted statements to object code: plain C functions, no TVM calling convention.

``int symbol(T* arg0, ..., int64 dim0, ..., int64 begin, int64 end)`` and no undefined symbol.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.ir import PrimType

from graphopt.codegen.elf import strip, undefined_symbols
from graphopt.codegen.isa import Isa
from graphopt.errors import CompileError

__all__ = ["Function", "UndefinedSymbols", "assemble", "build_object", "print_function"]


class UndefinedSymbols(CompileError):
    """Object code that needs a library."""


@dataclass(frozen=True)
class Function:
    """One kernel: its parameters as TIR variables, and its statements."""

    symbol: str
    params: Sequence[Any]
    statements: Sequence[Any]


def _target(isa: Isa) -> Any:
    return tvm.target.Target(
        {
            "kind": "llvm",
            "mtriple": "x86_64-unknown-linux-gnu",
            "mcpu": isa.name,
            # a*b + c may become one instruction; nothing else is relaxed.
            "fast-math-contract": True,
            # Loops are vectorised here already; LLVM would only blow up the remainders.
            "cl-opt": [
                "-vectorize-loops:bool=false",
                "-vectorize-slp:bool=false",
                "-unroll-runtime:bool=false",
            ],
        }
    )


def _prim_func(function: Function, target: Any) -> Any:
    body = [*function.statements, tirx.Return(tirx.IntImm("int32", 0))]
    made = tirx.PrimFunc(list(function.params), tirx.SeqStmt(body), ret_type=PrimType("int32"))
    return (
        made.with_attr("global_symbol", function.symbol)
        .with_attr("tirx.noalias", True)
        .with_attr("calling_conv", 0)
        .with_attr("target", target)
    )


def _module(functions: Sequence[Function], target: Any) -> Any:
    return tvm.IRModule({f.symbol: _prim_func(f, target) for f in functions})


def print_function(function: Function, isa: Isa) -> str:
    """The TIR of a kernel as text."""
    return str(_module([function], _target(isa)).script())


def assemble(functions: Sequence[Function], isa: Isa) -> str:
    """The assembly of kernels, to look at."""
    target = _target(isa)
    built = tvm.get_global_func("target.build.llvm")(_module(functions, target), target)
    return str(built.inspect_source("asm"))


def build_object(functions: Sequence[Function], isa: Isa) -> bytes:
    """Object code of all kernels. Raises UndefinedSymbols when it is not self-contained."""
    target = _target(isa)
    try:
        built = tvm.get_global_func("target.build.llvm")(_module(functions, target), target)
    except Exception as error:
        raise CompileError(f"LLVM refused the generated code: {error}") from error
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        path = Path(folder) / "kernels.o"
        built.write_to_file(str(path))
        data = path.read_bytes()
    missing = undefined_symbols(data)
    if missing:
        raise UndefinedSymbols(f"generated code calls {', '.join(missing)}, which nothing defines")
    return strip(data)
