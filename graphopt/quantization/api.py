"""``quantize``: from a model and data to a quantized graph within a budget, and a report."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from graphopt.api import to_graph
from graphopt.compress.adequacy import assess
from graphopt.compress.placement import layers_of
from graphopt.data import Samples, find_metric, from_arrays, load_samples, refuse_overlap, split
from graphopt.errors import InputError
from graphopt.ir import Graph
from graphopt.passes.pipelines import level
from graphopt.quantization.config import WEIGHTS_ALONE, QuantizeConfig
from graphopt.quantization.engine import Engine
from graphopt.quantization.judge import Judge
from graphopt.quantization.mixed import settle
from graphopt.quantization.static import Static
from graphopt.quantization.timing import measure_gain
from graphopt.quantization.weights import Weights
from graphopt.rewrite import PassContext

__all__ = ["Quantized", "quantize"]


@dataclass(frozen=True)
class Quantized:
    """``graph`` with QuantizeLinear and DequantizeLinear, and what the ``report`` says of it.

    ``met`` is False where the loss is above the budget; the graph is then the best that was found.
    """

    graph: Graph
    report: dict[str, Any]

    @property
    def met(self) -> bool:
        """True when the loss on held-out data is within the budget, or there was none."""
        return bool(self.report["met"])


def quantize(
    model: Any,
    data: Any,
    config: QuantizeConfig | None = None,
    *,
    evaluation: Any = None,
    ctx: PassContext | None = None,
) -> Quantized:
    """Quantizes a model (a Graph, an ONNX path, bytes or a ModelProto) within a budget.

    ``data`` is what to calibrate with: samples, arrays by input name with one entry a sample, or
    what :func:`graphopt.data.load_samples` reads. ``evaluation`` is other data to judge with; by
    default every fourth sample of ``data`` is held out for that.

    Raises ModelError, OptionError, InputError (data that does not fit, or is in both sets) and
    UnsupportedError (nothing to quantize). A budget that is not met is no error here: see
    :attr:`Quantized.met`.
    """
    config = config or QuantizeConfig()
    metric = find_metric(config.metric)
    source = to_graph(model)
    calibration, held_out = _sets(source, data, evaluation)
    graph = prepared(source, ctx)
    calibration = calibration.first(config.samples)
    refuse_overlap(calibration, held_out)
    maker: Static | Weights
    if config.precision in WEIGHTS_ALONE:
        maker = Weights(graph, calibration, config)
    else:
        maker = Static(graph, calibration, config)
        maker.choose()
    judge = Judge(Engine(graph), held_out, metric)
    result, report = settle(maker, judge, config)
    if isinstance(maker, Static):
        report["calibration"] = assess(maker.observed).as_dict()
    if config.measure and find_spec("tvm") is not None:
        feed = next(iter(held_out)).feed
        report["time"] = measure_gain(graph, result, feed)
        _add_times(report, graph)
    report |= {
        "method": maker.method,
        "steps": maker.steps,
        "precision": config.precision,
        "metric": metric.name,
        "max_drop": config.max_drop,
    }
    return Quantized(result, report)


def _add_times(report: dict[str, Any], graph: Graph) -> None:
    """Microseconds of each layer before and after, where a step stands for it."""
    found = report["time"]
    layers = {layer.name: layer.node for layer in layers_of(graph)}
    for row in report["layers"]:
        node = layers[row["name"]]
        names = {row["name"], node.name, *node.origin}
        for key in ("before", "after"):
            steps = found[f"steps_{key}"]
            row[f"us_{key}"] = round(sum(steps[name] for name in names & steps.keys()), 2) or None


def prepared(source: Graph, ctx: PassContext | None = None) -> Graph:
    """The graph in floats that is quantized: batch normalisations folded, formulas found."""
    from graphopt.exporters.onnx_expand import expand
    from graphopt.exporters.onnx_opset import acceptor, choose_opsets
    from graphopt.ir import clone

    ctx = ctx or PassContext()
    graph = clone(source)
    # DequantizeLinear has an axis from opset 13 on.
    version = max(13, choose_opsets(source, None).version)
    ctx.accepts = acceptor(graph, version)
    level("onnx")(graph, ctx)
    ctx.accepts = None
    expand(graph, version)
    return graph


def _sets(graph: Graph, data: Any, evaluation: Any) -> tuple[Samples, Samples]:
    calibration = _samples(graph, data)
    if evaluation is not None:
        return calibration, _samples(graph, evaluation)
    if len(calibration) < 2:
        raise InputError(
            f"{calibration.name} holds {len(calibration)} sample: one to calibrate with and "
            "another to judge with are the least"
        )
    return split(calibration, min(4, len(calibration)))


def _samples(graph: Graph, data: Any) -> Samples:
    if isinstance(data, Samples):
        return data
    if isinstance(data, dict):
        return from_arrays(data, graph)
    return load_samples(data, graph)
