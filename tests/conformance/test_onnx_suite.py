"""The ONNX backend suite, whole, against each target's ledger."""

from __future__ import annotations

import pytest

from tests.conformance.ledger import Ledger
from tests.conformance.run import check

# At least this many of the suite's cases pass.
BARS = {"reference": 1950, "cpu": 1600}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", sorted(BARS))
def test_the_suite_goes_as_the_ledger_says(target: str) -> None:
    import onnx

    ledger = Ledger(target)
    assert ledger.version == onnx.__version__, "another pin of onnx needs a ledger of its own"
    report = check(target)
    failures = [f"{case}: {why}" for case, why in sorted(report.unexpected_failures.items())]
    passes = sorted(report.unexpected_passes)
    assert not failures, "\n".join(failures[:20])
    assert not passes, "these pass now; take them off the ledger:\n" + "\n".join(passes[:20])
    assert report.passed >= BARS[target]
