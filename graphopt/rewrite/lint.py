"""The order of passes: does each come after what it builds on?

A pass declares the stage that a graph must have reached (``requires``) and the one that it reaches
(``ensures``), and names the passes whose results it looks for (``follows``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import Stage
from graphopt.rewrite.passes import Pass, Pipeline

__all__ = ["Finding", "lint"]

_ORDER = list(Stage)


@dataclass(frozen=True, slots=True)
class Finding:
    """A pass that runs before what it needs. An error: the result may be wrong, or the run fail;
    else rewrites are missed."""

    is_error: bool
    pass_name: str
    other: str
    text: str

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.text}"


def lint(
    pipeline: Pass, *, stage: Stage = Stage.SOURCE, library: Iterable[type[Pass]] = ()
) -> list[Finding]:
    """What is wrong with the order of ``pipeline`` for a graph of ``stage``.

    What follows in the same repeated group has run before in its next round. ``library`` are
    passes to name as a remedy.
    """
    leaves, library = list(_leaves(pipeline, ())), list(library)
    places: dict[str, list[int]] = {}
    for index, (item, _) in enumerate(leaves):
        places.setdefault(item.name, []).append(index)
    found: list[Finding] = []
    for index, (item, loops) in enumerate(leaves):
        missing = _stage(item, stage, library)
        if missing is not None:
            found.append(missing)
        if item.ensures is not None and _ORDER.index(item.ensures) > _ORDER.index(stage):
            stage = item.ensures
        for name in item.follows:
            others = places.get(name, [])
            earlier = any(other < index for other in others)
            around = any(set(loops) & set(leaves[other][1]) for other in others)
            if others and not earlier and not around:
                text = f"'{item.name}' runs before '{name}', whose results it looks for"
                found.append(Finding(False, item.name, name, text))
    return list(dict.fromkeys(found))


def _leaves(item: Pass, loops: tuple[int, ...]) -> Iterable[tuple[Pass, tuple[int, ...]]]:
    """Passes in order, with the repeated groups around each."""
    if not isinstance(item, Pipeline):
        yield item, loops
        return
    if item.max_rounds > 1:
        loops = (*loops, id(item))
    for inner in item.passes:
        yield from _leaves(inner, loops)


def _stage(item: Pass, stage: Stage, library: Iterable[type[Pass]]) -> Finding | None:
    if _ORDER.index(item.requires) <= _ORDER.index(stage):
        return None
    names = sorted(
        cls.name
        for cls in library
        if cls.ensures is not None and _ORDER.index(cls.ensures) >= _ORDER.index(item.requires)
    )
    remedy = " or ".join(f"'{name}'" for name in names) or "a pass that lowers it"
    text = (
        f"'{item.name}' takes a {item.requires.value} graph, but runs on a {stage.value} one: it "
        f"needs {remedy} before it"
    )
    return Finding(True, item.name, names[0] if names else "", text)
