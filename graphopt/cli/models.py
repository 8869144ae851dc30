"""Models and pipelines that commands name: files of any form that graphopt reads."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import typer

from graphopt.cli.common import load_inputs
from graphopt.cli.files import save_bytes, save_npz, save_text
from graphopt.errors import ArtifactError, GraphoptError, ModelError, OptionError
from graphopt.ir import Graph
from graphopt.ir.text import INLINE_ELEMENTS
from graphopt.rewrite import EditLog, Finding, PassContext, Pipeline, lint

__all__ = [
    "check_order",
    "context_of",
    "is_artifact",
    "read_graph",
    "read_log",
    "read_pipeline",
    "save_graph",
    "save_log",
]


def read_graph(path: Path, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> Graph:
    """The graph of an ONNX model, of `.gir` text, whose larger constants lie beside it in
    ``NAME.weights.npz`` by digest, or of an artifact (lowered, without weights). Raises ModelError,
    ArtifactError."""
    if is_artifact(path):
        return _artifact_graph(path)
    if path.suffix != ".gir":
        from graphopt.api import from_onnx

        return from_onnx(str(path), input_shapes=input_shapes)
    from graphopt.ops.text import parse

    if input_shapes:
        raise OptionError("--input-shape is for ONNX models: a .gir says its shapes itself")
    try:
        text = path.read_text(encoding="utf-8")
        beside = path.with_suffix(".weights.npz")
        weights = {}
        if beside.exists():
            with np.load(beside, allow_pickle=False) as file:
                weights = dict(file)
        return parse(text, constants=weights)
    except ModelError as error:
        raise ModelError(f"cannot read '{path}': {error}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"cannot read '{path}': {reason}") from error


def is_artifact(path: Path) -> bool:
    """By its name: an artifact ends in ``.gopt``."""
    return path.suffix == ".gopt"


def _artifact_graph(path: Path) -> Graph:
    from graphopt.ops.text import parse
    from graphopt.runtime.artifact import Artifact

    return parse(Artifact.load(path).read("graph.gir").decode())


def save_graph(graph: Graph, path: Path) -> list[Path]:
    """Writes ``path`` (.gir), the constants that it names by digest beside it, and the same as
    ONNX where it has a form there; returns the files. Raises ArtifactError."""
    from graphopt.exporters.onnx import to_onnx
    from graphopt.ir import print_graph

    beside, onnx_file = path.with_suffix(".weights.npz"), path.with_suffix(".onnx")
    for stale in (beside, onnx_file):
        stale.unlink(missing_ok=True)
    save_text(path, print_graph(graph))
    files = [path]
    constants = [v.constant for v in graph.constants.values() if v.constant is not None]
    large = {c.digest: c.array for c in constants if c.numel > INLINE_ELEMENTS}
    if large:
        files.append(beside)
        save_npz(beside, large)
    with contextlib.suppress(GraphoptError):
        data = to_onnx(graph).SerializeToString()
        save_bytes(onnx_file, data)
        files.append(onnx_file)
    return files


def read_pipeline(spec: str) -> Pipeline:
    """The level or pipeline that ``spec`` names. A pass that runs before one whose results it looks
    for is told on standard error. Raises OptionError, for one that cannot run where it stands too.
    """
    from graphopt.passes import parse_pipeline
    from graphopt.passes.pipelines import LEVELS, level

    if spec in LEVELS:
        return level(spec)
    pipeline = parse_pipeline(spec)
    for finding in check_order(pipeline):
        if finding.is_error:
            raise OptionError(finding.text)
        typer.echo(str(finding), err=True)
    return pipeline


def context_of(spec: str, source: Graph) -> PassContext:
    """A context that records, and for the level ``onnx`` keeps to ops that the model's opset has,
    as ``graphopt optimize`` does."""
    ctx = PassContext(log=EditLog(record=True))
    if spec == "onnx":
        from graphopt.exporters.onnx_opset import acceptor

        ctx.accepts = acceptor(source, None, contrib=False)
    return ctx


def check_order(pipeline: Pipeline) -> list[Finding]:
    """What is wrong with the order of the passes."""
    from graphopt.passes import TABLE

    found = lint(pipeline)
    if any(finding.is_error for finding in found):
        return lint(pipeline, library=[TABLE.load(name) for name in TABLE.names()])
    return found


def read_log(path: Path) -> EditLog:
    """A saved edit log, with the constants that lie beside it in ``NAME.constants.npz``.
    Raises ModelError."""
    try:
        text = path.read_text(encoding="utf-8")
        beside = path.with_suffix(".constants.npz")
        return EditLog.from_json_lines(text, load_inputs(beside) if beside.exists() else None)
    except ModelError as error:
        raise ModelError(f"cannot read '{path}': {error}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"cannot read '{path}': {reason}") from error


def save_log(log: EditLog, path: Path) -> list[Path]:
    """Writes an edit log, and beside it the larger constants that its edits made; returns the
    files. Raises ArtifactError; nothing is left behind then."""
    constants = log.constants()
    files = [path.with_suffix(".constants.npz")] if constants else []
    if constants:
        save_npz(files[0], constants)
    try:
        save_text(path, log.to_json_lines())
    except ArtifactError:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return [path, *files]
