"""What to quantize to, how to calibrate, and what may be lost."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.compress.ranges import METHODS
from graphopt.errors import OptionError

__all__ = ["PRECISIONS", "WEIGHTS_ALONE", "QuantizeConfig"]

PRECISIONS = ("mixed", "int8", "int4", "int8-weights")
WEIGHTS_ALONE = {"int4": 4, "int8-weights": 8}


@dataclass(frozen=True)
class QuantizeConfig:
    """Options of :func:`graphopt.compress.quantize`. Raises OptionError for what makes no sense.

    ``precision``: ``int8`` computes every layer that can in 8-bit integers, ``mixed`` leaves as few
    in floats as ``max_drop`` asks for; ``int4`` and ``int8-weights`` store the weights of large
    products in 4 or 8 bits, a scale and (with ``zeros``) a zero point for each ``group`` of them,
    and compute in floats. ``rounding`` of those is ``nearest`` or ``gptq``, least squares on the
    calibration data. ``method`` finds ranges: minmax, percentile, mse, entropy,
    or ``auto``, the one with the least error on the calibration data.

    ``migrate`` evens out what products of matrices read, at the cost of their weights; None tries
    it and keeps it where it lowers the error.

    ``metric`` and ``max_drop`` say how much may be lost, on data that was not calibrated with; None
    measures without judging. ``keep`` names layers that stay in floats. ``samples`` bounds how many
    are calibrated with, ``seconds`` how long sensitivities are measured. ``measure`` times the
    model before and after.
    """

    precision: str = "mixed"
    method: str = "auto"
    percentile: float = 99.99
    activations: str = "u8"
    symmetric: bool = False
    per_channel: bool = True
    metric: str = "cosine"
    max_drop: float | None = 0.01
    keep: tuple[str, ...] = ()
    migrate: bool | None = None
    group: int = 128
    zeros: bool = True
    rounding: str = "nearest"
    measure: bool = True
    samples: int = 128
    sensitivity: bool = True
    seconds: float = 120.0

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("method", self.method, ("auto", *METHODS))
        _one_of("activations", self.activations, ("u8", "i8"))
        _one_of("rounding", self.rounding, ("nearest", "gptq"))
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise OptionError(f"max_drop is {self.max_drop}; it must be between 0 and 1")
        if not 50 < self.percentile <= 100:
            raise OptionError(f"percentile is {self.percentile}; it must be above 50, at most 100")
        if self.samples < 1:
            raise OptionError(f"samples is {self.samples}; it must be at least 1")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is one of {', '.join(choices)}, not '{value}'")
