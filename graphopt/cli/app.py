"""The typer application: every command registered once."""

from __future__ import annotations

import typer

from graphopt import __version__
from graphopt.cli.bench import bench
from graphopt.cli.bisect import bisect
from graphopt.cli.check import check
from graphopt.cli.compile import compile_command
from graphopt.cli.diff import diff
from graphopt.cli.explain import explain
from graphopt.cli.inspect import inspect
from graphopt.cli.optimize import optimize
from graphopt.cli.passes import passes
from graphopt.cli.quantize import quantize_command
from graphopt.cli.report import report_command
from graphopt.cli.run import run_command
from graphopt.cli.targets import targets

__all__ = ["app"]

app = typer.Typer(
    name="graphopt",
    help="Make trained neural networks small and fast on the hardware you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("compile")(compile_command)
app.command("run")(run_command)
app.command("bench")(bench)
app.command("inspect")(inspect)
app.command("check")(check)
app.command("optimize")(optimize)
app.command("quantize")(quantize_command)
app.command("report")(report_command)
app.command("explain")(explain)
app.command("bisect")(bisect)
app.command("diff")(diff)
app.command("passes")(passes)
app.command("targets")(targets)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    """Options before the command."""
