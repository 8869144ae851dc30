"""Export by torch's dynamo exporter, with a check that the ONNX file means what torch means."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks.zoo import builders, feeds
from benchmarks.zoo.catalog import Model
from benchmarks.zoo.store import ZooError, packaged

OPSET = 18
TOLERANCE = 1e-5
"""Largest relative L2 distance between torch and onnxruntime on one output."""


def module(model: Model, folder: Path) -> torch.nn.Module:
    """The module that ``model`` is exported from. Raises ZooError when its package is missing."""
    files = packaged(model.package, folder) if model.package else []
    built: torch.nn.Module = getattr(builders, str(model.builder))(files)
    return built


def export(model: Model, folder: Path, target: Path) -> None:
    """Build, export and check ``model``; write it to ``target``.

    Raises ZooError when the exported file disagrees with torch on any case.
    """
    # Its warnings are about torchvision, which no model here uses.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    built = module(model, folder)
    args = _tensors(model, seed=0, case=len(model.cases) - 1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            built,
            args,
            input_names=[item.name for item in model.inputs],
            dynamic_shapes=_dynamic(model),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    program.save(target, external_data=False)
    for case in range(len(model.cases)):
        _check(model, built, target, case)


def _tensors(model: Model, seed: int, case: int) -> tuple[torch.Tensor, ...]:
    """The feed as tensors, each with memory of its own.

    torch.export merges inputs that are one object, and the merged model answers wrongly.
    """
    feed = feeds.inputs(model.name, seed, case)
    return tuple(torch.from_numpy(feed[item.name].copy()) for item in model.inputs)


def _dynamic(model: Model) -> tuple[Any, ...] | None:
    if not model.dynamic:
        return None
    return tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, d in enumerate(item.shape) if isinstance(d, str)}
        for item in model.inputs
    )


def _check(model: Model, module: torch.nn.Module, file: Path, case: int) -> None:
    seed = 7
    with torch.no_grad():
        expected = module(*_tensors(model, seed, case))
    if isinstance(expected, torch.Tensor):
        expected = (expected,)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = [item.name for item in session.get_inputs()]
    if given != [item.name for item in model.inputs]:
        raise ZooError(f"{model.name}: the export has the inputs {given}")
    got = session.run(None, feeds.inputs(model.name, seed, case))
    for index, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        want = theirs.numpy().astype(np.float64)
        error = np.linalg.norm(mine - want) / np.linalg.norm(want)
        if not error <= TOLERANCE:
            raise ZooError(
                f"{model.name}: output {index} of case {case} is {error:.1e} off torch's "
                f"(relative L2, at most {TOLERANCE:.0e})"
            )
