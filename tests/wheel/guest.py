"""Runs in the environment of the wheel, alone: its text is handed to ``python -I -c``."""

import importlib.util
import pathlib
import sys

import numpy as np

import graphopt

home = pathlib.Path(graphopt.__file__)
assert sys.prefix in str(home), f"imported {home}, not the installed wheel"
for absent in ("tvm", "onnx", "onnxruntime", "torch", "ml_dtypes", "typer"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is here: the test proves nothing"

for artifact in sorted(pathlib.Path().glob("*.gopt")):
    session = graphopt.load(artifact, threads=2)
    with np.load(artifact.with_suffix(".in.npz")) as inputs:
        outputs = session.run(dict(inputs))
    np.savez(artifact.with_suffix(".got.npz"), **outputs)
