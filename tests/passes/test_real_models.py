"""What the passes make of real models: the patterns that exporters write are found, all of them."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import zoo
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import Graph, verify
from graphopt.passes import parse_pipeline
from graphopt.passes.pipelines import level
from graphopt.rewrite import PassContext

pytestmark = [pytest.mark.zoo, pytest.mark.timeout(600)]

SILERO = [model.name for model in zoo.models() if model.name.startswith("silero")]


def _optimized(name: str) -> Graph:
    graph = from_onnx(zoo.path(name))
    ctx = PassContext(after=[lambda _, g: verify(g)])
    level("O2")(graph, ctx)
    parse_pipeline("simplify,fuse-attention,simplify,eliminate-dead")(graph, ctx)
    verify(graph, types=True)
    return graph


def _ops(graph: Graph) -> Counter[str]:
    return Counter(node.op.qualified for node in graph.walk())


@pytest.mark.parametrize(("name", "layers"), [("bert-base", 12), ("vit-b16", 12), ("minilm-l6", 6)])
def test_transformers(name: str, layers: int) -> None:
    ops = _ops(_optimized(name))
    assert ops["graphopt::Attention"] == layers
    assert ops["Gelu"] == layers
    assert ops["LayerNormalization"] == 2 * layers + 1
    assert not ops.keys() & {"Softmax", "IsNaN", "Erf", "Sqrt"}


def test_text_recognition() -> None:
    ops = _ops(_optimized("ppocr-rec"))
    assert ops["graphopt::Attention"] == 2
    assert ops["LayerNormalization"] == 5
    assert ops["Swish"] == 7
    assert ops["BatchNormalization"] == 0


def test_file_types() -> None:
    """JAX through TensorFlow: tanh GELU, normalisation by moments, softmax spelled out.

    Another GELU is of an embedding, and done once for all of its table.
    """
    ops = _ops(_optimized("magika"))
    assert (ops["Gelu"], ops["LayerNormalization"], ops["Softmax"]) == (1, 1, 1)
    assert not ops.keys() & {"Tanh", "Exp"}


@pytest.mark.parametrize("name", SILERO)
def test_voice_activity(name: str) -> None:
    """PyTorch's squeeze as conditionals of two ranks: what is left asks for the sample rate."""
    graph = _optimized(name)
    assert _ops(graph)["If"] <= 1
    for node in graph.walk():
        for value in node.outputs:
            assert value.shape is not None, value
