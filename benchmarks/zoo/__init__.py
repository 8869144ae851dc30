"""The model zoo: real ONNX models, fetched or exported on first use and kept in a cache.

``path(name)`` answers with an ONNX file, ``inputs(name, seed, case)`` with a feed for it, and
``models()`` with what there is. Nothing of it is committed: model files live under
``$GRAPHOPT_ZOO`` (``~/.cache/graphopt/zoo`` when unset).
"""

from benchmarks.zoo.catalog import Input, Model, get, models
from benchmarks.zoo.feeds import inputs
from benchmarks.zoo.store import ZooError, path

__all__ = ["Input", "Model", "ZooError", "get", "inputs", "models", "path"]
