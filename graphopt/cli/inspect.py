"""``graphopt inspect``: what is in a model or an artifact."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import InputShapes, JsonFlag, emit_json, parse_shapes, table

__all__ = ["inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(help="ONNX model or artifact (.gopt).", readable=False)],
    input_shape: InputShapes = None,
    text: Annotated[bool, typer.Option("--text", help="Print the graph's text form.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show interface, size and ops of FILE."""
    if _is_artifact(file):
        _artifact(file, text, as_json)
    else:
        _model(file, input_shape, text, as_json)


def _is_artifact(file: Path) -> bool:
    """By its name, else by its first bytes: an artifact is a zip archive, a model never is."""
    if file.suffix == ".gopt":
        return True
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"PK\x03\x04"
    except OSError:
        return False  # reading it as a model says why


def _artifact(file: Path, text: bool, as_json: bool) -> None:
    from graphopt.runtime.artifact import Artifact

    artifact = Artifact.load(file)
    if text:
        typer.echo(artifact.read("graph.gir").decode(), nl=False)
        return
    manifest = dict(artifact.manifest)
    manifest["report"] = artifact.json("report.json")
    if as_json:
        emit_json(manifest)
        return
    typer.echo(f"{file}: {manifest['name']} for {manifest['target']}")
    typer.echo(f"made by graphopt {manifest['graphopt_version']}")
    for choice in manifest.get("choices", ()):
        typer.echo(f"chosen by measurement: {choice}")
    _interface(manifest["inputs"], manifest["outputs"])
    members = [[name, item["size"], item["xxh64"]] for name, item in manifest["members"].items()]
    table("members", ["name", "bytes", "xxh64"], members)
    for fallback in manifest["report"]["fallbacks"]:
        typer.echo(f"interpreted: {fallback['node']} ({fallback['op']}): {fallback['reason']}")


def _model(file: Path, shapes: list[str] | None, text: bool, as_json: bool) -> None:
    from graphopt.api import from_onnx

    graph = from_onnx(str(file), input_shapes=parse_shapes(shapes))
    if text:
        typer.echo(str(graph), nl=False)
        return
    ops = Counter(node.op.qualified for node in graph.walk())
    weights = sum(v.constant.nbytes for v in graph.constants.values() if v.constant)
    result: dict[str, Any] = {
        "name": graph.name,
        "inputs": [{"name": v.name, "type": str(v.type)} for v in graph.inputs],
        "outputs": [
            {"name": name, "type": str(v.type)}
            for v, name in zip(graph.outputs, graph.output_names, strict=True)
        ],
        "nodes": sum(ops.values()),
        "weight_bytes": weights,
        "ops": dict(sorted(ops.items())),
        "metadata": graph.metadata,
    }
    if as_json:
        emit_json(result)
        return
    typer.echo(f"{file}: {graph.name}, {result['nodes']} nodes, {weights / 1e6:.1f} MB of weights")
    _interface(result["inputs"], result["outputs"])
    table("ops", ["op", "nodes"], [[op, count] for op, count in ops.most_common()])


def _interface(inputs: list[dict[str, str]], outputs: list[dict[str, str]]) -> None:
    rows = [["input", item["name"], item["type"]] for item in inputs]
    rows += [["output", item["name"], item["type"]] for item in outputs]
    table("interface", ["", "name", "type"], rows)
