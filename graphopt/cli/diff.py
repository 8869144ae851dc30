"""``graphopt diff``: what differs between two models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import InputShapes, JsonFlag, emit_json, load_inputs, parse_shapes
from graphopt.cli.common import progress as spinner
from graphopt.cli.models import is_artifact, read_graph
from graphopt.errors import GraphoptError, InputError, UnsupportedError, VerificationError

__all__ = ["diff"]

_SHOWN = 20


def diff(
    a: Annotated[Path, typer.Argument(help="ONNX model, .gir or .gopt.", readable=False)],
    b: Annotated[Path, typer.Argument(help="ONNX model, .gir or .gopt.", readable=False)],
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help=".npz of arrays to run on.", readable=False)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, help="Relative L2 error that outputs may have."),
    ] = None,
    numbers: Annotated[
        bool, typer.Option("--numbers/--no-numbers", help="Run both and compare outputs.")
    ] = True,
    structure: Annotated[
        bool, typer.Option("--structure/--no-structure", help="Compare nodes and weights.")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 9 when the structure differs, too.")
    ] = False,
    input_shape: InputShapes = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare A and B: interface, nodes, weights, and outputs on the same inputs.

    Exits with 9 when an output or the interface differs.
    """
    shapes = parse_shapes(input_shape)
    data = load_inputs(inputs) if inputs is not None else None
    with spinner(f"comparing {a.name} and {b.name}"):
        result, same = _compare((a, b), data, tolerance, (structure, numbers), shapes)
    if as_json:
        emit_json(result)
    else:
        _show(result)
    if not same or (strict and not result.get("structure", {}).get("same", True)):
        raise typer.Exit(VerificationError.exit_code)


def _compare(
    paths: tuple[Path, Path],
    data: Any,
    tolerance: float | None,
    wanted: tuple[bool, bool],
    shapes: Any,
) -> tuple[dict[str, Any], bool]:
    from graphopt.verify.diff import compare_structure

    graphs = [read_graph(path, None if is_artifact(path) else shapes) for path in paths]
    found = compare_structure(*graphs)
    # Metadata name opsets and producers: they say what wrote a model, not what it computes.
    same = found.same_interface
    result: dict[str, Any] = {"a": str(paths[0]), "b": str(paths[1])}
    if wanted[0]:
        result["structure"] = {**dataclasses.asdict(found), "same": found.same}
    if wanted[1]:
        result["numbers"] = _numbers(paths, graphs, data, tolerance)
        same = same and result["numbers"]["same"]
    elif wanted[0]:
        same = same and found.same
    return result, same


def _numbers(
    paths: tuple[Path, Path], graphs: list[Any], data: Any, tolerance: float | None
) -> dict[str, Any]:
    from graphopt.verify import fit_inputs
    from graphopt.verify.diff import compare_numbers
    from graphopt.verify.execute import missing_semantics, runnable_inputs

    for path, graph in zip(paths, graphs, strict=True):
        missing = None if is_artifact(path) else missing_semantics(graph)
        if missing is not None:
            name = missing.name or missing.output.name
            raise UnsupportedError(
                f"'{path}': nothing here can run node '{name}' ({missing.op.qualified}); "
                "--no-numbers compares the structure alone"
            )
    sides = [_runner(p, g) for p, g in zip(paths, graphs, strict=True)]
    if data is None:
        data, _ = _inputs(paths, graphs, runnable_inputs)
    for path, graph in zip(paths, graphs, strict=True):
        try:
            data = fit_inputs(graph, data)
        except InputError as error:
            raise InputError(f"'{path}': {error}") from None
    try:
        found = compare_numbers(sides[0], sides[1], data, tolerance=tolerance)
    except InputError:
        raise
    except GraphoptError as error:
        raise InputError(f"a model does not run on these inputs: {error}") from error
    first = None
    if found.first is not None:
        node, comparison = found.first
        first = {"node": node, **dataclasses.asdict(comparison)}
    outputs = [{**dataclasses.asdict(c), "ok": c.ok} for c in found.outputs]
    return {"same": found.same, "outputs": outputs, "first": first}


def _inputs(paths: tuple[Path, Path], graphs: list[Any], find: Any) -> Any:
    """Random inputs on which one of the graphs runs; artifacts hold ops that only they run."""
    for path, graph in zip(paths, graphs, strict=True):
        if not is_artifact(path):
            return find(graph)
    from graphopt.verify import default_sizes, random_inputs

    return random_inputs(graphs[0], default_sizes(graphs[0])[0]), None


def _runner(path: Path, graph: Any) -> Any:
    if not is_artifact(path):
        return graph
    from graphopt.runtime import load

    return load(path).run


def _show(result: dict[str, Any]) -> None:
    if "structure" in result:
        _show_structure(result["structure"])
    numbers = result.get("numbers")
    if numbers is None:
        return
    typer.echo("numbers: " + ("the same within tolerance" if numbers["same"] else "they differ"))
    for row in numbers["outputs"]:
        verdict = "ok" if row["ok"] else "differs"
        typer.echo(
            f"  {row['name']}: relative L2 error {row['error']:.3g} "
            f"(allowed {row['tolerance']:.3g}), {verdict}"
        )
    if numbers["first"] is not None:
        first = numbers["first"]
        typer.echo(f"  first at {first['node']}")
        typer.echo(f"    %{first['name']}: relative L2 error {first['error']:.3g}")


def _show_structure(found: dict[str, Any]) -> None:
    if found["same"] and not found["metadata"]:
        typer.echo(f"structure: the same, {found['nodes_same']} nodes")
        return
    typer.echo(
        f"structure: {found['nodes_same']} nodes alike, {len(found['nodes_changed'])} changed, "
        f"{len(found['nodes_removed'])} removed, {len(found['nodes_added'])} added; "
        f"{found['weights_same']} weights alike"
    )
    for kind in ("inputs", "outputs", "metadata", "weights"):
        _lines(kind, [_change(row) for row in found[kind]])
    _lines("nodes", [_change(row) for row in found["nodes_changed"]])
    _lines("", [f"- {text}" for text in found["nodes_removed"]])
    _lines("", [f"+ {text}" for text in found["nodes_added"]])


def _change(row: dict[str, str]) -> str:
    from graphopt.verify.diff import Change

    return str(Change(**row))


def _lines(title: str, lines: list[str]) -> None:
    if lines and title:
        typer.echo(f"{title}:")
    for line in lines[:_SHOWN]:
        typer.echo(f"  {line}")
    if len(lines) > _SHOWN:
        typer.echo(f"  and {len(lines) - _SHOWN} more (--json lists all)")
