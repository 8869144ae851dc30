"""Models and pipelines that commands name: files of any form that graphopt reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from graphopt.cli.common import load_inputs
from graphopt.errors import ModelError, OptionError
from graphopt.ir import Graph
from graphopt.rewrite import EditLog, Pipeline

__all__ = ["read_graph", "read_log", "read_pipeline"]


def read_graph(path: Path, input_shapes: Mapping[str, Sequence[int | str]] | None = None) -> Graph:
    """The graph of an ONNX model or of `.gir` text, whose larger constants lie beside it in
    ``NAME.weights.npz`` by digest. Raises ModelError."""
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


def read_pipeline(spec: str) -> Pipeline:
    """The level or pipeline that ``spec`` names. Raises OptionError."""
    from graphopt.passes import parse_pipeline
    from graphopt.passes.pipelines import LEVELS, level

    return level(spec) if spec in LEVELS else parse_pipeline(spec)


def read_log(path: Path) -> EditLog:
    """A saved edit log, with the constants that lie beside it in ``NAME.npz``. Raises
    ModelError."""
    try:
        text = path.read_text(encoding="utf-8")
        beside = path.with_suffix(".npz")
        return EditLog.from_json_lines(text, load_inputs(beside) if beside.exists() else None)
    except ModelError as error:
        raise ModelError(f"cannot read '{path}': {error}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"cannot read '{path}': {reason}") from error
