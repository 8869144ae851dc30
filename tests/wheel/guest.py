"""Runs in the environment of the wheel, alone: its text is handed to ``python -I -c``."""

import importlib.util
import pathlib
import sys

import numpy as np

import graphopt

home = pathlib.Path(graphopt.__file__)
assert sys.prefix in str(home), f"imported {home}, not the installed wheel"
for absent in ("tvm", "onnx", "onnxruntime", "torch"):
    assert importlib.util.find_spec(absent) is None, f"{absent} is here: the test proves nothing"

with np.load("want.npz") as want:
    outputs = graphopt.load("model.gopt", threads=2).run({"x": want["x"]})
    np.savez("got.npz", x=want["x"], **outputs)
