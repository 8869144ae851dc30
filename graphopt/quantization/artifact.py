"""Artifacts that compute in integers where that is allowed and, on request, only where it pays."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from graphopt.errors import BudgetError, OptionError, UnsupportedError
from graphopt.ir import Graph
from graphopt.quantization.api import Quantized, quantize
from graphopt.quantization.config import QuantizeConfig
from graphopt.runtime.artifact import Artifact

__all__ = ["NoGainWarning", "compile_quantized"]

Build = Callable[[Graph], Artifact]


class NoGainWarning(UserWarning):
    """A model in integers that is not faster than in floats."""


def compile_quantized(
    source: Graph,
    data: Any,
    config: QuantizeConfig | None,
    *,
    automatic: bool,
    in_floats: Callable[[], Artifact],
    in_integers: Build,
) -> Artifact:
    """The artifact of ``source`` quantized within the budget of ``config``.

    ``automatic``: the artifact in floats instead where the budget is not met or, measured, integers
    are not faster; its manifest says under ``quantization`` what was chosen and why. Otherwise
    raises BudgetError for a budget that is not met, and warns of no gain (NoGainWarning). Raises
    OptionError without data, and what :func:`graphopt.quantization.quantize` does.
    """
    if data is None:
        raise OptionError("precision int8 and auto need data to calibrate with: give `data`")
    config = replace(config or QuantizeConfig(sensitivity=False), measure=True)
    try:
        found = quantize(source, data, config)
    except UnsupportedError as error:
        if automatic:
            return _noted(in_floats(), {"chosen": "fp32", "reason": str(error)})
        raise
    accuracy = found.report["accuracy"]
    alarm = found.report.get("time", {}).get("alarm")
    notes = {
        "accuracy": accuracy,
        "metric": found.report["metric"],
        "kept_in_floats": found.report["kept"],
        **_times(found),
    }
    if not found.met:
        reason = (
            f"{found.report['metric']} on held-out data drops by {accuracy['drop'][0]:.4f}, more "
            f"than {config.max_drop:g}"
        )
        if automatic:
            return _noted(in_floats(), {"chosen": "fp32", "reason": reason, **notes})
        raise BudgetError(reason)
    if alarm and automatic:
        return _noted(in_floats(), {"chosen": "fp32", "reason": alarm, **notes})
    if alarm:
        warnings.warn(alarm, NoGainWarning, stacklevel=3)
    return _noted(in_integers(found.graph), {"chosen": "int8", "reason": "", **notes})


def _times(found: Quantized) -> dict[str, Any]:
    time = found.report.get("time", {})
    return {key: time[key] for key in ("before_ms", "after_ms", "speedup") if key in time}


def _noted(artifact: Artifact, notes: dict[str, Any]) -> Artifact:
    return Artifact({**artifact.manifest, "quantization": notes}, artifact.members)
