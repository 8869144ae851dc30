"""Streams of samples: what a model is calibrated and judged on, one at a time.

A source is an ``.npz`` file, a folder of images, or ``module:function``. It is read anew on every
pass, so that no more than a sample is in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import InputError
from graphopt.ir import Graph, TensorType, Value

__all__ = ["LABELS", "Sample", "Samples", "from_arrays", "load_samples", "split"]

Array = np.ndarray[Any, Any]
# The array of an .npz that holds what is to be found, not an input.
LABELS = "labels"


@dataclass(frozen=True)
class Sample:
    """One run of the model: ``feed`` is arrays by input name, ``label`` what is to come out."""

    feed: Mapping[str, Array]
    label: Any = None

    @property
    def digest(self) -> str:
        """32 hex digits over the inputs' contents."""
        hasher = hashlib.blake2b(digest_size=16)
        for name, array in sorted(self.feed.items()):
            hasher.update(f"{name}:{array.dtype}{array.shape};".encode())
            hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return hasher.hexdigest()


class Samples:
    """Samples that can be gone through any number of times, in the same order each time."""

    def __init__(self, make: Callable[[], Iterable[Sample]], name: str, count: int) -> None:
        self._make = make
        self.name = name
        self._count = count

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._make())

    def __len__(self) -> int:
        return self._count

    @property
    def labelled(self) -> bool:
        """True when the first sample has a label."""
        return next((s.label is not None for s in self), False)

    def take(self, keep: Callable[[int], bool], name: str) -> Samples:
        """Those whose number ``keep`` wants."""

        def make() -> Iterator[Sample]:
            return (sample for index, sample in enumerate(self) if keep(index))

        return Samples(make, name, sum(map(keep, range(len(self)))))

    def first(self, count: int) -> Samples:
        """At most ``count`` samples, spread evenly over all."""
        total = len(self)
        if count >= total:
            return self
        chosen = {total * i // count for i in range(count)}
        return self.take(chosen.__contains__, self.name)


def split(samples: Samples, every: int = 4) -> tuple[Samples, Samples]:
    """Samples to calibrate with and samples to judge with: each ``every``-th is held out."""
    return (
        samples.take(lambda i: i % every != every - 1, f"{samples.name} (3 of 4)"),
        samples.take(lambda i: i % every == every - 1, f"{samples.name} (every 4th)"),
    )


def load_samples(
    spec: str | os.PathLike[str],
    graph: Graph,
    *,
    preprocess: str | os.PathLike[str] | None = None,
    batch: int = 1,
) -> Samples:
    """Samples for ``graph`` from ``spec``: an ``.npz``, a folder of images, ``module:function``.

    Arrays of an ``.npz`` are named after inputs, with one entry a sample along their first axis;
    ``labels``, if there, holds what is to come out. Images of a folder go through the steps that
    the TOML file ``preprocess`` gives; names of subfolders, in order, are the labels. A function
    yields feeds, or pairs of a feed and a label, anew each time that it is called. Where the
    model's first axis is open, ``batch`` samples run at once.

    Raises InputError naming the file and what does not fit.
    """
    text = os.fspath(spec)
    path = Path(text)
    if path.is_dir():
        from graphopt.data.images import image_samples

        return image_samples(path, graph, preprocess)
    if preprocess is not None:
        raise InputError(f"'{text}' is no folder of images: --preprocess does not apply")
    if path.suffix == ".npz":
        from graphopt.data.npz import npz_samples

        return npz_samples(path, graph, batch)
    module, colon, function = text.partition(":")
    if colon and module and function.isidentifier():
        return _from_function(module, function, graph)
    reason = "it does not exist" if not path.exists() else "it is none of them"
    raise InputError(
        f"cannot read data from '{text}': {reason}; give an .npz file, a folder of images or "
        "module:function"
    )


def from_arrays(
    arrays: Mapping[str, Any], graph: Graph, *, labels: Sequence[Any] | None = None, batch: int = 1
) -> Samples:
    """Samples from arrays by input name, one entry a sample along the first axis.

    Raises InputError for names, types and shapes that the graph does not take.
    """
    plan = ChunkPlan(graph, {n: np.asarray(a) for n, a in arrays.items()}, batch, "the arrays")

    def make() -> Iterator[Sample]:
        for index in range(plan.count):
            feed = {n: plan.cut(n, np.asarray(a), index) for n, a in arrays.items()}
            yield Sample(feed, None if labels is None else plan.labels(np.asarray(labels), index))

    return Samples(make, "arrays", plan.count)


class ChunkPlan:
    """How arrays with an entry a sample become feeds of the shapes that the model takes."""

    def __init__(self, graph: Graph, arrays: Mapping[str, Any], batch: int, where: str) -> None:
        known = {value.name: value for value in graph.inputs}
        unknown = [name for name in arrays if name not in known]
        missing = [name for name in known if name not in arrays]
        if unknown or missing:
            listing = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
            what = f"holds '{unknown[0]}', which is no input" if unknown else ""
            what = what or f"lacks input '{missing[0]}'"
            raise InputError(f"{where} {what}; the model's inputs are {listing}")
        self.stacked: dict[str, bool] = {}
        self.step = max(batch, 1)
        counts: dict[str, int] = {}
        for name, array in arrays.items():
            self._plan(known[name], array, where, counts)
        for name in arrays:
            if not self.stacked[name]:
                counts[name] = counts[name] // self.step
        self.count = min(counts.values(), default=0)
        if self.count == 0 or len(set(counts.values())) > 1:
            found = ", ".join(f"{n}: {c}" for n, c in counts.items())
            what = "the inputs hold different numbers of samples" if self.count else "no sample"
            raise InputError(f"{where}: {what} ({found})")

    def _plan(self, value: Value, array: Any, where: str, counts: dict[str, int]) -> None:
        type = value.type
        if not isinstance(type, TensorType) or type.shape is None:
            raise InputError(f"{where}: input '{value.name}' is {type}, which no array holds")
        if array.dtype != type.dtype.numpy:
            raise InputError(
                f"{where}: input '{value.name}' is of {type.dtype}, the array of {array.dtype}"
            )
        shape = tuple(array.shape)
        for stacked in (False, True):
            own = shape[1:] if stacked else shape
            if len(own) != len(type.shape) or (stacked and not shape):
                continue
            # Along the first axis lie samples, unless they lie along one before it.
            pairs = list(zip(type.shape, own, strict=True))[0 if stacked else 1 :]
            if all(not isinstance(d, int) or d == n for d, n in pairs) and (stacked or own):
                self.stacked[value.name] = stacked
                counts[value.name] = shape[0]
                if not stacked and isinstance(type.shape[0], int):
                    self.step = type.shape[0]
                return
        raise InputError(
            f"{where}: input '{value.name}' takes {type}, with samples along a first axis; the "
            f"array has the shape {list(shape)}"
        )

    def rows(self, name: str, index: int) -> tuple[int, int]:
        """First and last (exclusive) row of an array that sample ``index`` takes."""
        if self.stacked[name]:
            return index, index + 1
        return index * self.step, (index + 1) * self.step

    def cut(self, name: str, array: Array, index: int) -> Array:
        """What sample ``index`` takes of an array."""
        begin, end = self.rows(name, index)
        return array[begin] if self.stacked[name] else array[begin:end]

    def labels(self, labels: Array, index: int) -> Any:
        """The label of sample ``index``, one or a row of them."""
        stacked = all(self.stacked.values())
        step = 1 if stacked else self.step
        found = labels[index * step : (index + 1) * step]
        return found[0] if step == 1 and len(found) else found


def _from_function(module: str, function: str, graph: Graph) -> Samples:
    found = import_function(module, function)

    def make() -> Iterator[Sample]:
        for item in found():
            feed, label = item if isinstance(item, tuple) else (item, None)
            yield Sample({n: np.asarray(a) for n, a in feed.items()}, label)

    count = 0
    from graphopt.verify.inputs import fit_inputs

    for count, sample in enumerate(make(), 1):
        if count == 1:
            fit_inputs(graph, sample.feed)
    if not count:
        raise InputError(f"{module}:{function} yields no samples")
    return Samples(make, f"{module}:{function}", count)


def import_function(module: str, function: str) -> Callable[..., Any]:
    """``module.function``; the working folder is searched, too. Raises InputError."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot load {module}:{function}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise InputError(f"{module}:{function} is no function")
    result: Callable[..., Any] = found
    return result
