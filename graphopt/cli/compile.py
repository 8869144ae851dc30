"""``graphopt compile``: a model to an artifact."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import (
    InputShapes,
    JsonFlag,
    emit_json,
    load_inputs,
    parse_shapes,
    progress,
)

__all__ = ["compile_command"]


def compile_command(
    model: Annotated[Path, typer.Argument(help="ONNX model.", readable=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Artifact (default: MODEL.gopt).", readable=False),
    ] = None,
    target: Annotated[str, typer.Option("--target", help="What to compile for.")] = "cpu",
    precision: Annotated[str, typer.Option("--precision", help="fp32.")] = "fp32",
    level: Annotated[str, typer.Option("-O", "--optimize", help="O0, O1 or O2.")] = "O2",
    exact: Annotated[
        bool, typer.Option("--exact", help="Only algorithms that round as plain sums do.")
    ] = False,
    input_shape: InputShapes = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check against the source model.")
    ] = True,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help=".npz of arrays to check with.", readable=False)
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse to run nodes in the interpreter.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile MODEL to an artifact that runs without ONNX, TVM or PyTorch."""
    import graphopt.compiler as compiler

    if exact:
        from graphopt.backends.base import Target

        target = str(Target.parse(target).with_option("exact", "on"))
    path = output or model.with_suffix(".gopt")
    data = load_inputs(inputs) if inputs is not None else None
    started = time.perf_counter()
    with (
        progress(f"compiling {model.name} for {target}"),
        warnings.catch_warnings(record=True) as seen,
    ):
        warnings.simplefilter("always", compiler.FallbackWarning)
        artifact = compiler.compile(
            str(model),
            target,
            precision=precision,
            output=path,
            input_shapes=parse_shapes(input_shape),
            optimize=level,
            verify=verify,
            inputs=data,
            strict=strict,
        )
    seconds = time.perf_counter() - started
    fallbacks = [str(w.message) for w in seen if issubclass(w.category, compiler.FallbackWarning)]
    result: dict[str, Any] = {
        "artifact": str(path),
        "bytes": path.stat().st_size,
        "seconds": round(seconds, 3),
        "target": target,
        "verification": artifact.manifest.get("verification"),
        "warnings": fallbacks,
    }
    if as_json:
        emit_json(result)
        return
    for text in fallbacks:
        typer.echo(f"warning: {text}", err=True)
    typer.echo(f"{path}: {result['bytes'] / 1e6:.1f} MB in {seconds:.1f} s")
    typer.echo(_verdict(result["verification"]))


def _verdict(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not verified (--no-verify)"
    if "skipped" in found:
        return f"not verified: {found['skipped']}"
    text = (
        f"verified against {found['oracle']}: relative L2 error {found['relative_error']:.2e} "
        f"(allowed {found['tolerance']:.0e})"
    )
    if "rounding_error" in found:
        text += f"; rounding alone moves the model's own result by {found['rounding_error']:.2e}"
    return text
