"""What a measurement may choose otherwise than the cost model: other kernels, tiles and shares."""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphopt.backends.choices import Alternative
from graphopt.backends.cpu.apply_choices import weights_name
from graphopt.backends.cpu.cost import Cost, default_panels, direct, known, product, winograd
from graphopt.backends.cpu.ops import DOMAIN
from graphopt.ir import Graph, Node

__all__ = ["alternatives"]

# What is predicted to take longer than this by more is not worth a measurement.
_HOPELESS = 1.6
_TILES = 1.15
_WINOGRAD_CHANNELS = 16
# Fewer rows or columns than this are not shared out.
_SHARED_ROWS, _SHARED_COLUMNS = 24, 64


def alternatives(graph: Graph, *, exact: bool) -> list[Alternative]:
    """Other choices for the steps of a lowered graph, most promising first at each."""
    found = [item for node in graph for item in _of(node, exact)]
    return sorted(found, key=lambda item: (item.predicted, item.name, item.choice))


def _of(node: Node, exact: bool) -> Iterator[Alternative]:
    if node.op.domain != DOMAIN or not node.outputs or node.output.shape is None:
        return
    if node.op.name == "attention":
        yield from _separate(node)
    name = weights_name(node)
    if not name or node.attrs.get("bf16"):
        return
    if node.op.name in ("conv", "conv_winograd"):
        yield from _convolutions(node, name, exact)
    if node.op.name in ("gemm", "conv") and int(node.attrs.get("group", 1)) == 1:
        yield from _tiles(node, name)


def _convolutions(node: Node, name: str, exact: bool) -> Iterator[Alternative]:
    shape, attrs = node.output.shape, node.attrs
    assert shape is not None
    fits = (
        tuple(attrs["kernel_shape"]) == (3, 3)
        and {*attrs["strides"], *attrs["dilations"], int(attrs.get("group", 1))} == {1}
        and min(int(attrs["cin"]), int(attrs["cout"])) >= _WINOGRAD_CHANNELS
    )
    if not fits:
        return
    sizes = (known(shape[0], "batch"), known(shape[1], "spatial"), known(shape[2], "spatial"))
    plain = direct(*sizes, int(attrs["cin"]), int(attrs["cout"])).seconds()
    points = winograd(*sizes, int(attrs["cin"]), int(attrs["cout"])).seconds()
    if node.op.name == "conv_winograd":
        yield from _likely("direct", name, node, plain / points, _HOPELESS)
    elif not exact:
        yield from _likely("winograd", name, node, points / plain, _HOPELESS)


def _tiles(node: Node, name: str) -> Iterator[Alternative]:
    """Tiles of another width, and the other way to share out."""
    shape, attrs = node.output.shape, node.attrs
    assert shape is not None
    kinds = ["batch", *["spatial"] * (len(shape) - 2)] if node.op.name == "conv" else None
    rows = math.prod(known(dim, kinds[i] if kinds else "rows") for i, dim in enumerate(shape[:-1]))
    columns = int(attrs["cout" if node.op.name == "conv" else "n"])
    depth = int(attrs["cin" if node.op.name == "conv" else "k"])
    depth *= math.prod(attrs.get("kernel_shape", ()))
    usual = default_panels(rows, depth)

    def cost(panels: int = usual, split: str = "") -> Cost:
        return product(rows, columns, depth, panels=panels, split=split)

    now = cost().seconds()
    for panels in range(1, 5):
        if panels != usual:
            predicted = cost(panels).seconds() / now
            yield from _likely(f"tile{panels}", name, node, predicted, _TILES)
    if rows >= _SHARED_ROWS and columns >= _SHARED_COLUMNS:
        for split in ("rows", "columns"):
            predicted = cost(split=split).seconds() / now
            yield from _likely(split, name, node, predicted, _TILES)


def _separate(node: Node) -> Iterator[Alternative]:
    """The projections of an attention apart, where one product makes them."""
    sources = [value for value in node.inputs[:3] if value is not None]
    for value in dict.fromkeys(sources):
        producer = value.producer
        while producer is not None and producer.op.name == "view":
            inner = producer.input(0)
            producer = None if inner is None else inner.producer
        if sources.count(value) < 2 or producer is None or producer.op.name != "gemm":
            continue
        name = weights_name(producer)
        if name.endswith(".merged"):
            sites = producer.origin | node.origin
            yield Alternative("separate", name.removesuffix(".merged"), sites, 1.0)


def _likely(
    choice: str, name: str, node: Node, predicted: float, most: float
) -> Iterator[Alternative]:
    if predicted <= most:
        yield Alternative(choice, name, node.origin, predicted)
