"""Runs the ONNX backend suite: ``python -m tests.conformance.run --target reference``."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.conformance.ledger import Ledger
from tests.conformance.suite import Case, load
from tests.conformance.workers import Outcome, run_all

__all__ = ["Report", "check"]


@dataclass
class Report:
    """Outcomes against the ledger."""

    target: str
    cases: list[Case]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    unexpected_failures: dict[str, str] = field(default_factory=dict)
    unexpected_passes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """Number of cases that pass."""
        return sum(o.status == "pass" for o in self.outcomes.values())


def check(
    target: str, *, pattern: str = "", workers: int = 2, timeout: float = 120.0, quiet: bool = True
) -> Report:
    """Runs all cases whose ``suite/name`` matches ``pattern`` and compares with the ledger."""
    cases = load(target)
    chosen = [k for k, c in enumerate(cases) if re.search(pattern, f"{c.suite}/{c.name}")]
    report = Report(target, [cases[k] for k in chosen])
    ledger = Ledger(target)
    started = time.monotonic()
    for count, outcome in enumerate(
        run_all(chosen, lambda k: cases[k].run(), workers=workers, timeout=timeout), start=1
    ):
        case = cases[outcome.index]
        key = f"{case.suite}/{case.name}"
        report.outcomes[key] = outcome
        expected = key in ledger.reasons
        if key in ledger.random:
            pass
        elif outcome.status == "pass" and expected:
            report.unexpected_passes.append(key)
        elif outcome.status != "pass" and not expected:
            report.unexpected_failures[key] = f"{outcome.status}: {outcome.message}"
        if not quiet and sys.stderr.isatty():
            elapsed = time.monotonic() - started
            sys.stderr.write(f"\r{count}/{len(chosen)} {elapsed:.0f} s ")
    return report


def _summary(report: Report) -> str:
    lines = []
    by_suite: dict[str, Counter[str]] = {}
    by_op: dict[str, Counter[str]] = {}
    for case in report.cases:
        status = report.outcomes[f"{case.suite}/{case.name}"].status
        by_suite.setdefault(case.suite, Counter())[status] += 1
        by_op.setdefault(case.op, Counter())[status] += 1
    lines.append(f"{'suite':<20}{'cases':>7}{'pass':>7}{'fail':>7}{'crash':>7}{'timeout':>8}")
    total: Counter[str] = Counter()
    for suite, counts in by_suite.items():
        total += counts
        lines.append(_row(suite, counts))
    lines.append(_row("all", total))
    failing = {op: c for op, c in by_op.items() if c["pass"] < c.total()}
    if failing:
        lines += ["", "by operator, where not all pass:"]
        for op, counts in sorted(failing.items()):
            lines.append(f"  {op:<40}{counts['pass']:>5} of {counts.total()}")
    return "\n".join(lines)


def _row(name: str, counts: Counter[str]) -> str:
    return (
        f"{name:<20}{counts.total():>7}{counts['pass']:>7}{counts['fail']:>7}"
        f"{counts['crash']:>7}{counts['timeout']:>8}"
    )


def _update(report: Report, whole: bool) -> None:
    import onnx

    ledger = Ledger(report.target)
    if whole:
        # Cases that the installed onnx no longer has go.
        ledger.reasons = {k: r for k, r in ledger.reasons.items() if k in report.outcomes}
    for key in report.unexpected_passes:
        del ledger.reasons[key]
    ledger.reasons |= report.unexpected_failures
    counts = {"cases": len(report.cases), "passes": len(report.cases) - len(ledger.reasons)}
    ledger.write(onnx.__version__, counts if whole else {})


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the outcome is as the ledger says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="reference")
    parser.add_argument("--filter", default="", help="regular expression over suite/name")
    parser.add_argument("--update", action="store_true", help="rewrite the ledger")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a case")
    parser.add_argument(
        "--strict", action="store_true", help="nothing may be interpreted; for the summary alone"
    )
    options = parser.parse_args(argv)
    if options.strict:
        os.environ["GRAPHOPT_ONNX_STRICT"] = "1"
    report = check(
        options.target, pattern=options.filter, workers=options.workers,
        timeout=options.timeout, quiet=False,
    )  # fmt: skip
    lines = ["", _summary(report)]
    for key, message in sorted(report.unexpected_failures.items()):
        lines.append(f"unexpected {message[:300]}\n    {key}")
    lines += [f"unexpected pass\n    {key}" for key in sorted(report.unexpected_passes)]
    sys.stdout.write("\n".join(lines) + "\n")
    if options.update:
        _update(report, whole=not options.filter)
        return 0
    return 1 if report.unexpected_failures or report.unexpected_passes else 0


if __name__ == "__main__":
    sys.exit(main())
