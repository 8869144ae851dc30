"""After every pass each node names the source nodes that it stands for: over the zoo, the light
models of the ONNX suite, random graphs, and down to what the cpu runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks import zoo
from graphopt.backends import Target, find
from graphopt.errors import VerifyError
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import Builder, Graph, parse
from graphopt.passes.pipelines import LEVELS, level
from graphopt.rewrite import Pass, PassContext
from graphopt.verify.provenance import Provenance
from tests.property.random_graphs import graphs
from tests.verify.wrong_rules import WrongAxisPass


def _light_models() -> list[Path]:
    import onnx.backend.test

    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    return sorted(folder.glob("*.onnx"))


def _check(graph: Graph, pipeline: Pass, target: str | None = None) -> None:
    ctx = PassContext()
    instrument = Provenance(graph)
    instrument.install(ctx)
    if target is None:
        pipeline(graph, ctx)
    else:
        ctx.target = Target.parse(target)
        pipeline(graph, ctx)
        find(ctx.target.kind).pipeline(ctx.target)(graph, ctx)
    assert instrument.checked >= len(graph) or not ctx.ran


@pytest.mark.parametrize("name", [model.name for model in zoo.models()])
@pytest.mark.zoo
@pytest.mark.timeout(600)
def test_every_node_of_the_zoo_has_an_origin(name: str) -> None:
    for spec in ("onnx", "O2"):
        _check(from_onnx(zoo.path(name)), level(spec), "cpu" if spec == "O2" else None)


@pytest.mark.parametrize("file", _light_models(), ids=lambda file: file.stem)
@pytest.mark.timeout(300)
def test_every_node_of_the_light_models_has_an_origin(file: Path) -> None:
    _check(from_onnx(file), level("onnx"))


@pytest.mark.parametrize("name", sorted(LEVELS))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(graph=graphs(max_nodes=16))
def test_every_node_of_random_graphs_has_an_origin(name: str, graph: Graph) -> None:
    _check(graph, level(name))


SOFTMAX = """graph @g(%x: f32[2, 3]) -> (%y) {
  %y = Softmax(%x) {axis = -1} @["source"]
}"""


def test_a_node_from_nowhere_is_refused() -> None:
    graph = parse(SOFTMAX)
    instrument = Provenance(graph)
    WrongAxisPass()(graph, instrument.install(PassContext()))
    Builder(graph, origin=["elsewhere"]).Relu(graph.inputs[0])
    with pytest.raises(VerifyError, match=r"after pass 'wrong-axis' .* comes from \['elsewhere'\]"):
        instrument(WrongAxisPass(), graph)
    graph = parse(SOFTMAX)
    Builder(graph).Relu(graph.inputs[0])
    with pytest.raises(VerifyError, match="has no origin"):
        instrument(WrongAxisPass(), graph)
