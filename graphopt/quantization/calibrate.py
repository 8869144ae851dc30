"""Calibration: the model runs on data, and what its values are like is noted as they pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphopt.compress.observe import Channels, Observation
from graphopt.compress.placement import place
from graphopt.data import Samples
from graphopt.errors import InputError
from graphopt.ir import Graph, Value, static_shape
from graphopt.quantization.engine import Engine, with_outputs

__all__ = ["Observed", "observe", "observe_layers"]

Array = np.ndarray[Any, Any]
# Values are observed in as many rounds as keep the outputs of one below this.
_BYTES = 1 << 29
# What a value of unknown size is taken for.
_UNKNOWN = 1 << 22

Observed = dict[str, Observation]


def observe_layers(graph: Graph, samples: Samples) -> Observed:
    """What every value is like that quantization could ask for, with channels of layers' inputs.

    Raises InputError for data that the model does not take, or that makes it yield only numbers
    that are not finite.
    """
    placement = place(graph)
    found: Observed = {}
    for value in placement.readers:
        found[value.name] = Observation()
    for layer in placement.layers:
        rank = layer.input.tensor.rank
        axis = 1 if layer.node.op.name.startswith("Conv") else -1
        if rank:
            found[layer.input.name].channels = Channels(axis)
    watch: dict[str, list[Callable[[Array], None]]] = {
        name: [item.add] for name, item in found.items()
    }
    observe(graph, samples, watch, {v.name: v for v in placement.readers})
    _require_numbers(found, samples)
    return found


def observe(
    graph: Graph,
    samples: Samples,
    watch: Mapping[str, list[Callable[[Array], None]]],
    values: Mapping[str, Value],
) -> None:
    """Shows each value named in ``watch`` to its functions, one sample after another.

    Memory is bounded: values are watched in rounds, each of which goes over all samples.
    """
    inputs = {value.name for value in graph.inputs}
    for sample in samples:
        for name in inputs & watch.keys():
            for see in watch[name]:
                see(np.asarray(sample.feed[name]))
    for names in _rounds([n for n in watch if n not in inputs], values):
        engine = Engine(with_outputs(graph, names))
        used = {spec.name for spec in engine.session.inputs}
        for sample in samples:
            feed = {name: array for name, array in sample.feed.items() if name in used}
            for name, array in engine.run(feed).items():
                for see in watch[name]:
                    see(array)


def _rounds(names: list[str], values: Mapping[str, Value]) -> list[list[str]]:
    rounds: list[list[str]] = []
    total = _BYTES
    for name in names:
        shape = static_shape(values[name].shape)
        size = _UNKNOWN if shape is None else 4 * int(np.prod(shape, dtype=np.int64))
        if total + size > _BYTES:
            rounds.append([])
            total = 0
        rounds[-1].append(name)
        total += size
    return rounds


def _require_numbers(found: Observed, samples: Samples) -> None:
    for name, item in found.items():
        if item.histogram.broken and not item.histogram.count:
            raise InputError(
                f"value '{name}' is NaN or infinite on all of {samples.name}: the model does not "
                "work on this data; is it preprocessed as in training?"
            )
