"""``graphopt optimize``: ONNX to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt.cli.common import (
    InputShapes,
    JsonFlag,
    emit_json,
    load_inputs,
    parse_shapes,
    progress,
)
from graphopt.cli.models import read_pipeline, save_log
from graphopt.cli.tracing import (
    DumpDir,
    InputsFile,
    LogFile,
    PrintAfter,
    PrintBefore,
    StopAfter,
    Timing,
    Tracing,
    VerifyEachFlag,
    install_checks,
    parse_stop,
    pass_times,
    show_checks,
)
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.rewrite import EditLog

__all__ = ["optimize"]

# Formulas are found before factors of theirs are moved into weights.
_EARLY = "fold-constants,simplify,merge-common,fuse-contrib"


def optimize(
    model: Annotated[Path, typer.Argument(help="ONNX model.", readable=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Optimized ONNX model.", readable=False)
    ],
    passes: Annotated[
        str, typer.Option("--passes", help="A level (onnx, O0, O1, O2) or a pipeline.")
    ] = "onnx",
    opset: Annotated[
        int | None, typer.Option("--opset", help="Opset of the result; the model's by default.")
    ] = None,
    allow_contrib: Annotated[
        bool, typer.Option("--allow-contrib", help="Fuse into ops of com.microsoft, too.")
    ] = False,
    input_shape: InputShapes = None,
    stop_after: StopAfter = None,
    verify_each: VerifyEachFlag = False,
    inputs: InputsFile = None,
    print_before: PrintBefore = None,
    print_after: PrintAfter = None,
    dump_dir: DumpDir = None,
    timing: Timing = False,
    log: LogFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Rewrite MODEL with exact passes and write it as ONNX."""
    from graphopt import api
    from graphopt.exporters.onnx_expand import expand
    from graphopt.exporters.onnx_opset import acceptor, choose_opsets
    from graphopt.rewrite import EditLog, PassContext

    pipeline = read_pipeline(f"{_EARLY},{_text(passes)},fuse-contrib" if allow_contrib else passes)
    data = load_inputs(inputs) if inputs is not None else None
    ctx = PassContext(
        log=EditLog(record=log is not None or verify_each),
        stop_after=parse_stop(stop_after, pipeline),
    )
    with progress(f"optimizing {model.name}"):
        source = api.from_onnx(str(model), input_shapes=parse_shapes(input_shape))
        before = sum(1 for _ in source.walk())
        if opset is not None:
            with ctx.log.step(source, "expand-ops", "ops that the opset lacks, spelled out"):
                expand(source, opset)
        version = opset or choose_opsets(source, None).version
        ctx.accepts = acceptor(source, version, contrib=allow_contrib)
        checks = install_checks(ctx, source, data) if verify_each else None
        Tracing(print_before, print_after, dump_dir).install(ctx, pipeline, source)
        result = api.optimize(source, pipeline, ctx=ctx, in_place=True)
        expand(result, version)
        written = save_log(ctx.log, log) if log is not None else []
        try:
            api.save_onnx(result, output, opset=opset)
        except GraphoptError:
            for file in written:
                file.unlink(missing_ok=True)
            raise
    report: dict[str, Any] = {
        "output": str(output),
        "nodes_before": before,
        "nodes_after": sum(1 for _ in result.walk()),
        "edits": {f"{p}/{r}": n for (p, r), n in sorted(ctx.log.counts().items())},
        "seconds": {name: round(s, 4) for name, s in sorted(ctx.seconds.items())},
        "passes": pass_times(ctx),
        "verified": checks,
        "lossy": _lossy(ctx.log),
    }
    if as_json:
        emit_json(report)
        return
    typer.echo(f"{output}: {before} nodes to {report['nodes_after']}, {len(ctx.log)} edits")
    if report["lossy"]:
        names = ", ".join(report["lossy"])
        typer.echo(f"lossy passes changed what the model computes: {names}")
    show_checks(ctx, checks, timing)


def _text(passes: str) -> str:
    """A pipeline's text, where a level may be named."""
    from graphopt.passes.pipelines import LEVELS

    return LEVELS.get(passes) or passes


def _lossy(log: EditLog) -> list[str]:
    """Passes that made an edit and do not keep what the model means."""
    from graphopt.passes import TABLE

    known = set(TABLE.names())
    ran = sorted({name for name, _ in log.counts()} & known)
    return [name for name in ran if not TABLE.load(name).exact]
