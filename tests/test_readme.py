"""The README and the docs say what is true: the before/after, the commands, the links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphopt

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def example() -> Any:
    """The README's model: a convolution block, then a reshape whose sizes are computed."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.random(shape, np.float32), name)

    def integers(name: str, *values: int) -> Any:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    def node(op: str, inputs: str, output: str, **attrs: Any) -> Any:
        return helper.make_node(op, inputs.split(), [output], name=output, **attrs)

    nodes = [
        node("Conv", "x w", "conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "conv scale shift mean var", "bn"),
        node("Relu", "bn", "relu"),
        node("Shape", "relu", "shape"),
        node("Gather", "shape zero", "batch"),
        node("Concat", "batch minus_one", "sizes", axis=0),
        node("Reshape", "relu sizes", "flat"),
        node("Gemm", "flat head", "y", transB=1),
    ]
    weights = [
        weight("w", 32, 3, 3, 3),
        *(weight(name, 32) for name in ("scale", "shift", "mean", "var")),
        weight("head", 10, 32 * 64),
        integers("zero", 0),
        integers("minus_one", -1),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def test_the_before_and_after_are_what_the_compiler_prints() -> None:
    before, after = _blocks("gir")
    graph = graphopt.from_onnx(example())
    assert before == str(graph)
    assert after == str(graphopt.optimize(graph, "O2"))


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for name in re.findall(r"`make ([a-z-]+)", page.read_text()):
            assert name in targets, f"{page.relative_to(ROOT)} names make {name}"


def test_the_map_of_the_tree_is_the_tree() -> None:
    (tree,) = (b for b in _blocks("text") if "graphopt/" in b)
    names = re.findall(r"^ *([\w.-]+/?)  ", tree, re.M)
    assert len(names) > 15
    for name in names:
        found = [ROOT / name, ROOT / "graphopt" / name]
        assert any(path.exists() for path in found), f"the map names {name}"


@pytest.mark.parametrize(
    "command",
    ["compile", "run", "bench", "inspect", "check", "optimize", "explain", "bisect", "diff"],
)
def test_options_that_the_docs_name_exist(command: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    section = re.search(rf"^## {command}\n(.*?)^## ", text, re.M | re.S)
    assert section is not None
    done = subprocess.run(
        [sys.executable, "-m", "graphopt", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "NO_COLOR": "1", "PATH": "", "PYTHONPATH": str(ROOT)},
    )
    for option in set(re.findall(r"--[a-z][a-z-]+", section[1])):
        assert option in done.stdout, f"graphopt {command} has no {option}"
