"""``--verify=each``: the graph runs before and after every pass, and both must agree.

A pass declares how far it may move outputs (:class:`graphopt.rewrite.Numerics`): exact ones keep
every bit, others stay within the rounding of their sums, lossy ones within their budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphoptError, VerificationError
from graphopt.ir import Graph, clone
from graphopt.rewrite import Pass, PassContext
from graphopt.verify.compare import TOLERANCES, Comparison, bits_equal, compare
from graphopt.verify.execute import execute, missing_semantics, runnable_inputs
from graphopt.verify.oracle import Oracle, rounding_errors

__all__ = ["PassCheck", "VerifyEach"]


@dataclass(frozen=True, slots=True)
class PassCheck:
    """What one run of a pass did to the output that it moved most.

    ``skipped`` says why nothing was run; else the error is a relative L2 distance.
    """

    pass_text: str
    output: str = ""
    error: float = 0.0
    allowed: float = 0.0
    skipped: str = ""


class VerifyEach:
    """Instruments of a pass context that run the graph around every pass.

    ``inputs`` default to random ones on which the model runs. Raises InputError at once when there
    are none; a pass that moves an output too far ends the run with VerificationError. ``on_check``
    is called with every check that held.
    """

    def __init__(
        self,
        source: Graph,
        inputs: Mapping[str, Any] | None = None,
        *,
        on_check: Callable[[PassCheck], None] | None = None,
    ) -> None:
        self.source = clone(source)
        self.inputs, self.before = runnable_inputs(self.source, inputs)
        self.checks: list[PassCheck] = []
        self.on_check = on_check
        self._rounding: dict[str, float] | None = None
        self._edits = (0, 0)

    def install(self, ctx: PassContext) -> PassContext:
        """Adds the instrument to ``ctx`` and returns it. The log had better record: it then tells
        which passes changed nothing, and they are not run again."""
        self._edits = (len(ctx.log), ctx.log.mark)

        def look(item: Pass, graph: Graph) -> None:
            self.after(item, graph, ctx)

        ctx.after.append(look)
        return ctx

    def after(self, item: Pass, graph: Graph, ctx: PassContext) -> None:
        """Compares with what the graph computed before the pass."""
        state = (len(ctx.log), ctx.log.mark)
        unchanged, self._edits = ctx.log.record and state == self._edits, state
        if unchanged:
            self._note(PassCheck(str(item), skipped="it changed nothing"))
            return
        missing = missing_semantics(graph)
        if missing is not None:
            reason = f"the interpreter cannot run {missing.op.qualified}"
            self._note(PassCheck(str(item), skipped=reason))
            return
        try:
            actual = execute(graph, self.inputs)
        except GraphoptError as error:
            text = f"after pass '{item}' the graph does not run: {error}"
            raise VerificationError(text) from error
        worst = self._worst(item, actual)
        if not worst.ok:
            raise VerificationError(
                f"pass '{item}' moves output '{worst.name}' by a relative error of "
                f"{worst.error:.3g}; it is {item.numerics} (allowed {worst.tolerance:.3g})"
            )
        self._note(PassCheck(str(item), worst.name, worst.error, worst.tolerance))
        self.before = actual

    def _note(self, check: PassCheck) -> None:
        self.checks.append(check)
        if self.on_check is not None:
            self.on_check(check)

    def _worst(self, item: Pass, actual: Mapping[str, Any]) -> Comparison:
        numerics = item.numerics
        results = compare(actual, self.before)
        if numerics.kind == "exact":
            results = [_exactly(c, actual[c.name], self.before[c.name]) for c in results]
        elif numerics.kind == "lossy" or not item.exact:
            budget = numerics.budget if numerics.kind == "lossy" else float("inf")
            results = [Comparison(c.name, c.error, budget) for c in results]
        elif not all(c.ok for c in results):
            results = compare(actual, self.before, rounding=self._rounding_errors())
        broken = [c for c in results if not c.ok]
        return max(broken or results, key=lambda c: c.error, default=Comparison("", 0.0, 0.0))

    def _rounding_errors(self) -> dict[str, float]:
        """What rounding alone moves the source model: a model that magnifies it is no finer a
        measure of passes."""
        if self._rounding is None:
            oracle = Oracle("interpreter", lambda inputs: execute(self.source, inputs))
            expected = execute(self.source, self.inputs)
            self._rounding = rounding_errors(oracle, self.inputs, expected)
        return self._rounding


def _exactly(found: Comparison, actual: Any, expected: Any) -> Comparison:
    """No error when every bit agrees; else at least the smallest that there is."""
    if bits_equal(actual, expected):
        return Comparison(found.name, 0.0, 0.0)
    smallest = min(TOLERANCES.values()) * 1e-300
    return Comparison(found.name, max(found.error, smallest), 0.0)
