"""The runner itself: crashes, hangs and exceptions each fail one case."""

from __future__ import annotations

import os
import time

from tests.conformance.workers import run_all


def _case(index: int) -> str | None:
    if index == 3:
        os.abort()
    if index == 5:
        time.sleep(60)
    if index == 7:
        os._exit(4)
    return "wrong" if index == 2 else None


def test_each_fate_is_told_apart() -> None:
    outcomes = {o.index: o for o in run_all(range(10), _case, workers=2, timeout=1.0)}
    assert sorted(outcomes) == list(range(10))
    statuses = {k: o.status for k, o in outcomes.items() if o.status != "pass"}
    assert statuses == {2: "fail", 3: "crash", 5: "timeout", 7: "crash"}
    assert outcomes[2].message == "wrong"
    assert "code 4" in outcomes[7].message


def test_workers_are_replaced_after_a_while() -> None:
    outcomes = list(run_all(range(7), lambda k: None, workers=1, timeout=5.0, recycle=2))
    assert [o.status for o in outcomes] == ["pass"] * 7


def _damaged(index: int) -> str | None:
    """Crashes unless it is the first case of its process."""
    seen = os.environ.get("SEEN_A_CASE")
    os.environ["SEEN_A_CASE"] = "1"
    if seen:
        os.abort()
    return None


def test_a_crash_is_not_blamed_on_the_successor() -> None:
    outcomes = list(run_all(range(4), _damaged, workers=1, timeout=5.0))
    assert sorted(o.index for o in outcomes) == [0, 1, 2, 3]
    assert {o.status for o in outcomes} == {"pass"}
