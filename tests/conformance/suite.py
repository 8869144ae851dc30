"""The ONNX backend suite of the installed onnx as a list of cases."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "load"]

_SUITES = {
    "NodeModel": "node", "RealModel": "real", "SimpleModel": "simple",
    "PyTorchConvertedModel": "pytorch-converted", "PyTorchOperatorModel": "pytorch-operator",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One case: its suite, its name without the device, and the official test function."""

    suite: str
    name: str
    op: str
    function: Callable[[Any], None]

    def run(self) -> str | None:
        """The failure message, None when the case passes."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.function(None)
        except Exception as error:
            text = " ".join(str(error).split())
            return f"{type(error).__name__}: {text}"[:600]
        return None


def load(target: str) -> list[Case]:
    """All cases, to be run by graphopt for ``target`` and compared the official way.

    Takes about 6 s: the inputs and expected outputs are computed.
    """
    from onnx.backend.test.runner import Runner

    from graphopt.onnx_backend import GraphoptBackend

    os.environ["GRAPHOPT_ONNX_TARGET"] = target
    # The runner writes the data of light models there; never the user's own cache.
    os.environ["ONNX_MODELS"] = tempfile.mkdtemp(prefix="onnx-light-")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = Runner(GraphoptBackend)._test_items
    _warm_up()
    operators = _operators()
    cases = []
    for category, entries in items.items():
        for name, item in sorted(entries.items()):
            if name.endswith("_cpu"):
                plain = name.removesuffix("_cpu")
                suite = _SUITES[category]
                op = operators.get(plain, "") if suite == "node" else suite
                cases.append(Case(suite, plain, op, item.func))
    return cases


def _warm_up() -> None:
    """Loads what a compile needs, for the workers to inherit: they are forked many times."""
    from onnx import TensorProto, helper

    from graphopt.onnx_backend import prepare

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    node = helper.make_node("Sin", ["x"], ["y"])
    prepare(helper.make_model(helper.make_graph([node], "warm", [x], [y])))


def _operators() -> dict[str, str]:
    """The operator that each node case is about, by name."""
    from onnx.backend.test.loader import load_node_model_tests

    found: dict[str, str] = {}
    for case in load_node_model_tests():
        assert case.model is not None
        own = {n.op_type for n in case.model.graph.node} - {"Constant", "Identity"}
        words = case.name.removeprefix("test_").replace("_", "").lower()
        named = [op for op in own if words.startswith(op.lower())]
        found[case.name] = max(named, key=len) if named else case.model.graph.node[0].op_type
    for name in found:
        # The expansion of a function is about the function.
        base = name.split("_expanded")[0]
        if base != name and base in found:
            found[name] = found[base]
    return found
