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
from graphopt.cli.models import read_graph, save_log
from graphopt.cli.tracing import (
    DumpDir,
    InputsFile,
    LogFile,
    PrintAfter,
    PrintBefore,
    Timing,
    Tracing,
    VerifyEachFlag,
    install_checks,
    pass_times,
    show_checks,
)
from graphopt.errors import GraphoptError
from graphopt.rewrite import EditLog, PassContext

__all__ = ["compile_command"]


def compile_command(
    model: Annotated[Path, typer.Argument(help="ONNX model.", readable=False)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Artifact (default: MODEL.gopt).", readable=False),
    ] = None,
    target: Annotated[str, typer.Option("--target", help="What to compile for.")] = "cpu",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32, bf16 (cpu), fp16 (cuda), int8 or auto.")
    ] = "fp32",
    arch: Annotated[
        str | None, typer.Option("--arch", help="GPU generations (cuda), such as sm_80,sm_90.")
    ] = None,
    toolkit: Annotated[
        str | None, typer.Option("--cuda-toolkit", help="NVRTC's major version (cuda): 13 or 12.")
    ] = None,
    level: Annotated[str, typer.Option("-O", "--optimize", help="O0, O1 or O2.")] = "O2",
    exact: Annotated[
        bool, typer.Option("--exact", help="Only algorithms that round as plain sums do.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="A source node that stays in float32 (with bf16)."),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option("--data", help="Calibration data (int8, auto), as `graphopt quantize` reads."),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="What int8 may lose: top1, f1, cosine, module:function.")
    ] = "cosine",
    max_drop: Annotated[str, typer.Option("--max-drop", help="How much of it, 1% or 0.01.")] = "1%",
    input_shape: InputShapes = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check against the source model.")
    ] = True,
    inputs: InputsFile = None,
    verify_each: VerifyEachFlag = False,
    print_before: PrintBefore = None,
    print_after: PrintAfter = None,
    dump_dir: DumpDir = None,
    timing: Timing = False,
    log: LogFile = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse to run nodes in the interpreter.")
    ] = False,
    tune: Annotated[
        float,
        typer.Option(
            "--tune",
            metavar="SECONDS",
            min=0,
            help="Time other kernels for that long (--tune alone: 10 s), keep what is faster.",
        ),
    ] = 0.0,
    as_json: JsonFlag = False,
) -> None:
    """Compile MODEL to an artifact that runs without ONNX, TVM or PyTorch."""
    import graphopt.compiler as compiler
    from graphopt.backends.base import Target
    from graphopt.rewrite.names import join_names

    options = {
        "exact": "on" if exact else "",
        "exclude": join_names(exclude or ()),
        "arch": "+".join(filter(None, (arch or "").split(","))),
        "toolkit": toolkit or "",
    }
    for option, value in options.items():
        if value:
            target = str(Target.parse(target).with_option(option, value))
    path = output or model.with_suffix(".gopt")
    data = load_inputs(inputs) if inputs is not None else None
    shapes = parse_shapes(input_shape)
    ctx = PassContext(log=EditLog(record=log is not None or verify_each))
    started = time.perf_counter()
    with (
        progress(f"compiling {model.name} for {target}"),
        warnings.catch_warnings(record=True) as seen,
    ):
        warnings.simplefilter("always", compiler.FallbackWarning)
        checks = install_checks(ctx, read_graph(model, shapes), data) if verify_each else None
        if tracing := Tracing(print_before, print_after, dump_dir):
            tracing.install(ctx, compiler.passes_of(target, level))
        artifact = compiler.compile(
            str(model),
            target,
            precision=precision,
            input_shapes=shapes,
            optimize=level,
            verify=verify,
            inputs=data,
            strict=strict,
            tune=tune,
            ctx=ctx,
            data=calibration,
            quantize=_quantization(precision, metric, max_drop),
        )
        _save(artifact, path, ctx.log, log)
    seconds = time.perf_counter() - started
    result: dict[str, Any] = {
        "artifact": str(path),
        "bytes": path.stat().st_size,
        "seconds": round(seconds, 3),
        "target": artifact.manifest["target"],
        "choices": artifact.manifest["choices"] if tune else None,
        "verification": artifact.manifest.get("verification"),
        "quantization": artifact.manifest.get("quantization"),
        "warnings": [
            str(w.message) for w in seen if issubclass(w.category, compiler.FallbackWarning)
        ],
        "passes": pass_times(ctx),
        "verified": checks,
    }
    if as_json:
        emit_json(result)
        return
    _show(result)
    show_checks(ctx, checks, timing)


def _quantization(precision: str, metric: str, max_drop: str) -> Any:
    """Options of quantization, where there is any."""
    if precision not in ("int8", "auto"):
        return None
    from graphopt.cli.quantize import parse_share
    from graphopt.quantization import QuantizeConfig

    return QuantizeConfig(metric=metric, max_drop=parse_share(max_drop), sensitivity=False)


def _save(artifact: Any, path: Path, log: EditLog, log_path: Path | None) -> None:
    """Writes the artifact and its log, or neither."""
    written = [] if log_path is None else save_log(log, log_path)
    try:
        artifact.save(path)
    except GraphoptError:
        for file in written:
            file.unlink(missing_ok=True)
        raise


def _show(result: dict[str, Any]) -> None:
    for text in result["warnings"]:
        typer.echo(f"warning: {text}", err=True)
    size = f"{result['bytes'] / 1e6:.1f} MB"
    typer.echo(f"{result['artifact']}: {size} in {result['seconds']:.1f} s")
    if result["choices"] is not None:
        typer.echo(_chosen(result["choices"]))
    if found := result["quantization"]:
        why = f": {found['reason']}" if found["reason"] else ""
        typer.echo(f"computes in {found['chosen']}{why}")
        if "accuracy" in found:
            drop = found["accuracy"]["drop"]
            typer.echo(
                f"{found['metric']} lost by int8: {drop[0]:.4f} [{drop[1]:.4f}, {drop[2]:.4f}]"
            )
    if result["verification"] or not found:
        typer.echo(_verdict(result["verification"]))


def _chosen(choices: list[str]) -> str:
    if not choices:
        return "tuned: no kernel is faster than the default ones by more than the noise"
    return f"tuned: {len(choices)} measured faster: {', '.join(choices)}"


def _verdict(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not verified (--no-verify)"
    if "skipped" in found:
        return f"not verified: {found['skipped']}"
    text = (
        f"verified against {found['oracle']}: relative L2 error {found['relative_error']:.2e} "
        f"(allowed {found['tolerance']:.2g})"
    )
    if "kept_in_fp32" in found:
        kept, layers = found["kept_in_fp32"]
        text += f"; {kept} of {layers} layers stay in float32 for that"
    if "rounding_error" in found:
        text += f"; rounding alone moves the model's own result by {found['rounding_error']:.2e}"
    return text
