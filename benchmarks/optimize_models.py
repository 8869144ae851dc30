"""What ``optimize.py`` tries: the zoo, and the light models of the installed onnx."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo

Feed = dict[str, Any]
_DTYPES = {1: np.float32, 6: np.int32, 7: np.int64, 11: np.float64}


@dataclass(frozen=True)
class Subject:
    """One model with its inputs: a name of the zoo, or a light model's file."""

    name: str
    file: Path
    light: bool = False

    def feeds(self) -> list[Feed]:
        """An input for every shape that the model is tried at."""
        if self.light:
            return [_random_feed(self.file)]
        return [zoo.inputs(self.name, 0, case) for case in range(len(zoo.get(self.name).cases))]


def subjects(wanted: str | None) -> Iterator[Subject]:
    """Every model, or those whose name holds one of the comma-separated words."""
    words = wanted.split(",") if wanted else [""]
    for model in zoo.models():
        if any(word in model.name for word in words):
            yield Subject(model.name, zoo.path(model.name))
    for file in _light_models():
        if any(word in file.stem for word in words):
            yield Subject(file.stem.replace("_", "-", 1), file, light=True)


def _light_models() -> list[Path]:
    import onnx.backend.test

    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    return sorted(folder.glob("*.onnx"))


def _random_feed(file: Path) -> Feed:
    import onnx

    graph = onnx.load(file).graph
    constants = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(0)
    feed: Feed = {}
    for info in graph.input:
        if info.name not in constants:
            kind = info.type.tensor_type
            shape = tuple(dim.dim_value or 1 for dim in kind.shape.dim)
            feed[info.name] = rng.standard_normal(shape).astype(_DTYPES[kind.elem_type])
    return feed
