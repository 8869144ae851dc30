"""``graphopt check``: what a target cannot lower, all at once, with a proposal each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.common import InputShapes, JsonFlag, emit_json, parse_shapes, table

__all__ = ["check"]


def check(
    model: Annotated[Path, typer.Argument(help="ONNX model.", readable=False)],
    target: Annotated[str, typer.Option("--target", help="What it should run on.")] = "cpu",
    input_shape: InputShapes = None,
    as_json: JsonFlag = False,
) -> None:
    """List every node of MODEL that TARGET cannot lower. Exits with 4 when there is one."""
    from graphopt.compiler import unsupported

    found = unsupported(str(model), target, input_shapes=parse_shapes(input_shape))
    if as_json:
        emit_json({"model": str(model), "target": target, "unsupported": found})
    elif not found:
        typer.echo(f"{model}: every node runs natively on '{target}'")
    else:
        rows = [[item["node"], item["op"], item["reason"], item["proposal"]] for item in found]
        table(f"{len(found)} node(s)", ["node", "op", "reason", "proposal"], rows)
    if found:
        raise typer.Exit(4)
