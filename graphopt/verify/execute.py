"""Running graphs in the interpreter, to compare one with another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, InputError, UnsupportedError
from graphopt.ir import Graph, Node
from graphopt.ops.interpreter import Entrance, Observer, run_graph
from graphopt.verify.inputs import default_sizes, fit_inputs, random_inputs

__all__ = ["execute", "missing_semantics", "runnable_inputs", "sprinkle"]

Arrays = Mapping[str, Any]
# Numbers that break careless rewrites.
_SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0)


def execute(
    graph: Graph,
    inputs: Arrays,
    observe: Observer | None = None,
    enter: Entrance | None = None,
) -> dict[str, Any]:
    """Outputs of ``graph`` by name; ``observe`` and ``enter`` are those of ``run_graph``.

    Raises ModelError or UnsupportedError naming the node.
    """
    # NaN and infinities may be wanted: numpy need not warn of them.
    with np.errstate(all="ignore"):
        results = run_graph(graph, inputs, observe=observe, enter=enter)
    return dict(zip(graph.output_names, results, strict=True))


def missing_semantics(graph: Graph) -> Node | None:
    """A node that the interpreter cannot run; None when there is none."""
    return next((node for node in graph.walk() if node.op.evaluate is None), None)


def runnable_inputs(
    graph: Graph, given: Arrays | None = None, *, special: bool = False
) -> tuple[Arrays, dict[str, Any]]:
    """Inputs on which ``graph`` runs, with its outputs: those given, or random ones of likely
    sizes, sprinkled with NaN, infinities and zeros of both signs when ``special``.

    Raises InputError when the given ones do not fit, or when the graph runs on none of those
    tried, UnsupportedError for an op that the interpreter cannot run.
    """
    missing = missing_semantics(graph)
    if missing is not None:
        name = missing.name or missing.output.name
        raise UnsupportedError(f"nothing here can run node '{name}' ({missing.op.qualified})")
    if given is not None:
        inputs = fit_inputs(graph, given)
        try:
            return inputs, execute(graph, inputs)
        except GraphoptError as error:
            raise InputError(f"the model does not run on these inputs: {error}") from error
    reason = ""
    for sizes in default_sizes(graph):
        try:
            inputs = random_inputs(graph, sizes)
            if special:
                inputs = sprinkle(inputs)
            return inputs, execute(graph, inputs)
        except GraphoptError as error:
            reason = str(error)
    raise InputError(f"the model runs on none of the inputs tried, give some: {reason}")


def sprinkle(inputs: Arrays, seed: int = 0) -> dict[str, Any]:
    """A quarter of all floats replaced by NaN, infinities and zeros of both signs."""
    rng = np.random.default_rng(seed)
    result: dict[str, Any] = {}
    for name, value in inputs.items():
        array = np.asarray(value)
        if array.dtype.kind == "f":
            places = rng.random(array.shape) < 0.25
            array = np.where(places, rng.choice(_SPECIAL, array.shape), array).astype(array.dtype)
        result[name] = array
    return result
