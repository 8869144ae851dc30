"""Options of commands that run passes: what to print, dump, time and check on the way."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import table
from graphopt.cli.files import make_folder, save_text
from graphopt.errors import OptionError
from graphopt.ir import Graph, print_graph
from graphopt.rewrite import Pass, PassContext
from graphopt.rewrite.explain import leaves

__all__ = [
    "UNCHANGED",
    "DumpDir",
    "InputsFile",
    "LogFile",
    "PrintAfter",
    "PrintBefore",
    "StopAfter",
    "Timing",
    "Tracing",
    "VerifyEachFlag",
    "install_checks",
    "parse_stop",
    "pass_times",
    "show_checks",
]


def _not_negative(text: str | None) -> str | None:
    if text is not None and text.startswith("-"):
        raise typer.BadParameter(f"{text} is neither a number of passes nor the name of one")
    return text


# What a check says of a pass that did nothing.
UNCHANGED = "it changed nothing"

VerifyEachFlag = Annotated[
    bool,
    typer.Option(
        "--verify-each",
        help="Run the model before and after every pass and compare (also --verify=each).",
    ),
]
InputsFile = Annotated[
    Path | None, typer.Option("--inputs", help=".npz of arrays to check with.", readable=False)
]
LogFile = Annotated[
    Path | None, typer.Option("--log", help="Write every edit as JSON lines.", readable=False)
]
PrintBefore = Annotated[
    list[str] | None,
    typer.Option(
        "--print-before", metavar="PASS|all", help="Print the graph before a pass. Repeatable."
    ),
]
PrintAfter = Annotated[
    list[str] | None,
    typer.Option(
        "--print-after", metavar="PASS|all", help="Print the graph after a pass. Repeatable."
    ),
]
DumpDir = Annotated[
    Path | None,
    typer.Option(
        "--dump-dir", help="Folder for the graph after every pass, as .gir.", readable=False
    ),
]
Timing = Annotated[bool, typer.Option("--timing", help="Show how long each pass took.")]
StopAfter = Annotated[
    str | None,
    typer.Option(
        "--stop-after",
        metavar="N|PASS",
        callback=_not_negative,
        help="Stop after N passes, or after the first run of one.",
    ),
]


@dataclass(frozen=True)
class Tracing:
    """What was asked for. Graphs are printed on standard error: results have standard output."""

    print_before: Sequence[str] | None = None
    print_after: Sequence[str] | None = None
    dump_dir: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.print_before or self.print_after or self.dump_dir)

    def install(self, ctx: PassContext, passes: Pass, source: Graph | None = None) -> PassContext:
        """Adds the instruments to ``ctx`` and returns it.

        Raises OptionError for a pass that ``passes`` do not run, ArtifactError when the folder
        cannot be made.
        """
        names = list(dict.fromkeys(item.name for item in leaves(passes)))
        before, after = tuple(self.print_before or ()), tuple(self.print_after or ())
        for name in (*before, *after):
            if name != "all":
                _require(name, names)
        if before:
            ctx.before.append(lambda item, graph: _print("before", item, graph, before))
        if after:
            ctx.after.append(lambda item, graph: _print("after", item, graph, after))
        if self.dump_dir is not None:
            folder = self.dump_dir
            make_folder(folder)
            if source is not None:
                save_text(folder / "000-source.gir", print_graph(source))
            ctx.after.append(lambda item, graph: _dump(folder, ctx, item, graph))
        return ctx


def install_checks(
    ctx: PassContext, source: Graph, inputs: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """``--verify-each``: a list that has a row for every run of a pass once they have run.

    Raises InputError when ``source`` does not run on ``inputs`` (random ones for None).
    """
    from graphopt.verify.each import PassCheck, VerifyEach

    rows: list[dict[str, Any]] = []

    def note(check: PassCheck) -> None:
        rows.append(dataclasses.asdict(check))

    VerifyEach(source, inputs, on_check=note).install(ctx)
    return rows


def show_checks(ctx: PassContext, checks: Sequence[Mapping[str, Any]] | None, timing: bool) -> None:
    """Prints what ``--verify-each`` and ``--timing`` ask for, where they do."""
    if checks is not None:
        typer.echo(verdict(checks))
    if timing:
        show_times(ctx)


def verdict(checks: Sequence[Mapping[str, Any]]) -> str:
    """One line on what ``--verify-each`` found."""
    done = [row for row in checks if not row["skipped"]]
    unable = [row for row in checks if row["skipped"] not in ("", UNCHANGED)]
    worst = max(done, key=lambda row: row["error"], default=None)
    text = f"{len(done)} pass runs verified"
    if worst is not None:
        text += f"; the worst is {worst['pass_text']} with a relative error of {worst['error']:.2e}"
    if unable:
        text += f"; {len(unable)} not ({unable[0]['skipped']})"
    return text


def _require(name: str, names: Sequence[str]) -> None:
    if name not in names:
        close = difflib.get_close_matches(name, names, 3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise OptionError(f"the pipeline does not run a pass '{name}'{hint}")


def parse_stop(text: str | None, passes: Pass) -> int | str | None:
    """``--stop-after``: a number, or the name of a pass that ``passes`` run. Raises OptionError."""
    if text is None:
        return None
    if text.isdigit():
        return int(text)
    _require(text, list(dict.fromkeys(item.name for item in leaves(passes))))
    return text


def _print(when: str, item: Pass, graph: Graph, names: Iterable[str]) -> None:
    if "all" in names or item.name in names:
        typer.echo(f"// {when} {item}\n{print_graph(graph)}", err=True, nl=False)


def _dump(folder: Path, ctx: PassContext, item: Pass, graph: Graph) -> None:
    number = len(ctx.ran)
    save_text(folder / f"{number:03d}-{item.name}.gir", f"// after {item}\n{print_graph(graph)}")


def pass_times(ctx: PassContext) -> list[dict[str, Any]]:
    """One row a pass: runs, seconds, edits; in the order of their first run."""
    rows: dict[str, dict[str, Any]] = {}
    for text, seconds in zip(ctx.ran, ctx.durations, strict=True):
        name = text.partition("{")[0]
        row = rows.setdefault(name, {"pass": name, "runs": 0, "seconds": 0.0, "edits": 0})
        row["runs"] += 1
        row["seconds"] += seconds
    for (name, _), count in ctx.log.counts().items():
        if name in rows:
            rows[name]["edits"] += count
    return [{**row, "seconds": round(row["seconds"], 6)} for row in rows.values()]


def show_times(ctx: PassContext) -> None:
    """Prints them as a table, with each pass's share."""
    rows = pass_times(ctx)
    total = sum(row["seconds"] for row in rows)
    shown = [
        [
            row["pass"],
            row["runs"],
            row["edits"],
            1e3 * row["seconds"],
            f"{100 * row['seconds'] / (total or 1.0):.1f} %",
        ]
        for row in rows
    ]
    table(f"passes, {1e3 * total:.1f} ms", ["pass", "runs", "edits", "ms", "share"], shown)
