"""What commands share: output as tables or JSON, shapes, inputs, progress."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from graphopt.errors import InputError, OptionError

__all__ = [
    "InputShapes",
    "JsonFlag",
    "emit_json",
    "load_inputs",
    "parse_shapes",
    "progress",
    "table",
]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="NAME:D0,D1,...",
        help="Fix an input's shape; a word instead of a number names a dynamic size. Repeatable.",
    ),
]


def emit_json(data: Any) -> None:
    """Writes one JSON document to standard output. What is not a finite number becomes null."""
    typer.echo(json.dumps(_finite(data), indent=2, sort_keys=True, default=str, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(item) for item in data] if isinstance(data, list | tuple) else data


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=escape(title) or None, title_justify="left")
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[position], int | float) for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Types such as f32[N, 3] would read as markup.
        shown.add_row(*(f"{x:.4g}" if isinstance(x, float) else escape(str(x)) for x in row))
    Console().print(shown)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """A spinner on a terminal's standard error while something long runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def parse_shapes(items: Sequence[str] | None) -> dict[str, list[int | str]] | None:
    """``NAME:1,3,H,W`` items as a mapping. Raises OptionError."""
    if not items:
        return None
    result: dict[str, list[int | str]] = {}
    for item in items:
        name, colon, dims = item.rpartition(":")
        if not colon or not name:
            raise OptionError(f"bad --input-shape '{item}': expected NAME:D0,D1,...")
        sizes: list[int | str] = []
        for dim in filter(None, (part.strip() for part in dims.split(","))):
            if dim.lstrip("-").isdigit():
                if int(dim) < 0:
                    raise OptionError(f"bad --input-shape '{item}': a size cannot be negative")
                if int(dim) >= 1 << 63:
                    raise OptionError(f"bad --input-shape '{item}': {dim} is too large a size")
                sizes.append(int(dim))
            else:
                sizes.append(dim)
        result[name] = sizes
    return result


def load_inputs(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of an ``.npz`` file by name. Raises InputError."""
    try:
        data = np.load(path, allow_pickle=False)
        if not isinstance(data, np.lib.npyio.NpzFile):
            raise InputError(f"'{path}' is not an .npz file of named arrays")
        with data:
            return {name: data[name] for name in data.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read inputs from '{path}': {error}") from error
    except Exception as error:
        raise InputError(
            f"cannot read inputs from '{path}': {type(error).__name__}: {error}"
        ) from error


def sizes_of(items: Mapping[str, Sequence[int | str]] | None) -> dict[str, Any]:
    """JSON form of shapes."""
    return {name: list(shape) for name, shape in (items or {}).items()}
