"""``graphopt optimize``: ONNX to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import InputShapes, JsonFlag, emit_json, parse_shapes, progress
from graphopt.errors import GraphoptError

__all__ = ["optimize"]


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
    stop_after: Annotated[
        int | None, typer.Option("--stop-after", min=0, help="Stop after this many passes.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Write every edit as JSON lines.", readable=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Rewrite MODEL with exact passes and write it as ONNX."""
    from graphopt import api
    from graphopt.cli.files import save_text
    from graphopt.exporters.onnx_opset import acceptor
    from graphopt.rewrite import PassContext

    ctx = PassContext(stop_after=stop_after)
    with progress(f"optimizing {model.name}"):
        source = api.from_onnx(str(model), input_shapes=parse_shapes(input_shape))
        before = sum(1 for _ in source.walk())
        ctx.accepts = acceptor(source, opset, contrib=allow_contrib)
        result = api.optimize(source, passes, ctx=ctx, in_place=True)
        if log is not None:
            save_text(log, ctx.log.to_json_lines())
        try:
            api.save_onnx(result, output, opset=opset)
        except GraphoptError:
            if log is not None:
                log.unlink(missing_ok=True)
            raise
    report: dict[str, Any] = {
        "output": str(output),
        "nodes_before": before,
        "nodes_after": sum(1 for _ in result.walk()),
        "edits": {f"{p}/{r}": n for (p, r), n in sorted(ctx.log.counts().items())},
        "seconds": {name: round(s, 4) for name, s in sorted(ctx.seconds.items())},
    }
    if as_json:
        emit_json(report)
        return
    typer.echo(f"{output}: {before} nodes to {report['nodes_after']}, {len(ctx.log)} edits")
