"""Which pass, and which single edit, broke the numbers: a binary search over the edit log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from graphopt.errors import GraphoptError, OptionError
from graphopt.ir import Graph, clone
from graphopt.ir.journal import Player
from graphopt.rewrite import Edit, EditLog, Pass, PassContext, replay
from graphopt.verify.compare import Comparison, compare
from graphopt.verify.execute import execute, missing_semantics, runnable_inputs
from graphopt.verify.oracle import Oracle, rounding_errors
from graphopt.verify.repro import Repro, cut_out

__all__ = ["Bisection", "Culprit", "bisect"]


@dataclass(frozen=True)
class Culprit:
    """The first edit after which an output is wrong; ``problem`` says how, ``comparison`` by how
    much (None when the graph does not run any more)."""

    edit: Edit
    problem: str
    comparison: Comparison | None
    repro: Repro | None


@dataclass(frozen=True)
class Bisection:
    """What was tried and found; ``culprit`` is None when the numbers agree after all edits."""

    edits: int
    inputs: Mapping[str, Any]
    comparisons: list[Comparison]
    culprit: Culprit | None = None
    tried: list[int] = field(default_factory=list)


def bisect(
    source: Graph,
    pipeline: Pass,
    inputs: Mapping[str, Any] | None = None,
    *,
    tolerance: float | None = None,
    special: bool = False,
    ctx: PassContext | None = None,
) -> Bisection:
    """Runs ``pipeline`` on a copy of ``source`` and looks for the edit that broke an output.

    An output is wrong where its relative L2 error against ``source`` exceeds ``tolerance`` (by
    default what its type allows, or twice what rounding moves it). ``inputs`` default to random
    ones; ``special`` sprinkles NaN, infinities and zeros of both signs over those. Both graphs run
    in the interpreter. Takes a run for each halving of the log.

    Raises InputError when the model does not run on the inputs, UnsupportedError when it holds ops
    that the interpreter cannot run, OptionError when ``pipeline`` leaves such ops.
    """
    source = clone(source)
    inputs, expected = runnable_inputs(source, inputs, special=special)
    ctx = ctx or PassContext(log=EditLog(record=True))
    result = clone(source)
    pipeline(result, ctx)
    search = _Search(source, ctx.log, inputs, expected, tolerance)
    missing = missing_semantics(result)
    if missing is not None:
        raise OptionError(
            f"the interpreter cannot run {missing.op.qualified}, which the passes leave: bisect "
            "the passes before it"
        )
    problem, comparisons = search.problem(len(ctx.log))
    found = Bisection(len(ctx.log), inputs, comparisons, tried=search.tried)
    if problem is None:
        return found
    # Passes first: between the edits of one that is written by hand, a graph may be halfway.
    ends = [edit.number for edit, after in pairwise(ctx.log) if after.step != edit.step]
    good, bad = search.first_bad([0, *ends, len(ctx.log)])
    _, bad = search.first_bad(range(good, bad + 1))
    problem, comparisons = search.problem(bad)
    assert problem is not None
    wrong = next((c for c in comparisons if not c.ok), None)
    culprit = Culprit(ctx.log[bad - 1], problem, wrong, _repro(source, ctx.log, bad, inputs))
    return Bisection(len(ctx.log), inputs, found.comparisons, culprit, search.tried)


class _Search:
    """Whether the graph is right after the first edits of a log."""

    def __init__(
        self,
        source: Graph,
        log: EditLog,
        inputs: Mapping[str, Any],
        expected: Mapping[str, Any],
        tolerance: float | None,
    ) -> None:
        self.source = source
        self.log = log
        self.inputs = inputs
        self.expected = expected
        self.tolerance = tolerance
        self.rounding: dict[str, float] | None = None
        self.tried: list[int] = []

    def problem(self, edits: int) -> tuple[str | None, list[Comparison]]:
        """What is wrong after that many edits; None when nothing is."""
        self.tried.append(edits)
        graph = replay(self.source, self.log, edits)
        try:
            actual = execute(graph, self.inputs)
        except GraphoptError as error:
            return f"the graph does not run: {error}", []
        found = self.compare(actual)
        bad = next((c for c in found if not c.ok), None)
        if bad is None:
            return None, found
        text = f"output '{bad.name}' is off by {bad.error:.3g} (allowed {bad.tolerance:.3g})"
        return text, found

    def first_bad(self, counts: Sequence[int]) -> tuple[int, int]:
        """Two neighbours in ``counts``, whose first is known to be right and whose last wrong: the
        graph is right after so many edits, and wrong after so many."""
        low, high = 0, len(counts) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.problem(counts[middle])[0] is None:
                low = middle
            else:
                high = middle
        return counts[low], counts[high]

    def compare(self, actual: Mapping[str, Any]) -> list[Comparison]:
        found = compare(actual, self.expected)
        if self.tolerance is not None:
            return [Comparison(c.name, c.error, self.tolerance) for c in found]
        if all(c.ok for c in found):
            return found
        if self.rounding is None:
            oracle = Oracle("interpreter", lambda inputs: execute(self.source, inputs))
            self.rounding = rounding_errors(oracle, self.inputs, self.expected)
        return compare(actual, self.expected, rounding=self.rounding)


def _repro(source: Graph, log: EditLog, number: int, inputs: Mapping[str, Any]) -> Repro | None:
    graph = clone(source)
    player = Player(graph)
    player.play(log.entries(0, number - 1))
    return cut_out(graph, player, log.entries(number - 1, number), inputs)
