"""Samples that are in two sets: a model must not be judged on what it was calibrated with."""

from __future__ import annotations

from graphopt.data.samples import Samples
from graphopt.errors import InputError

__all__ = ["refuse_overlap"]


def refuse_overlap(calibration: Samples, evaluation: Samples) -> None:
    """Raises InputError, saying how many and which first, if a sample is in both sets.

    Samples are told apart by a hash of their inputs.
    """
    known = {sample.digest: index for index, sample in enumerate(calibration)}
    shared = [
        (index, known[digest])
        for index, sample in enumerate(evaluation)
        if (digest := sample.digest) in known
    ]
    if shared:
        here, there = shared[0]
        raise InputError(
            f"{len(shared)} of {len(evaluation)} samples of {evaluation.name} are also in the "
            f"calibration data {calibration.name} (sample {here} is its sample {there}): accuracy "
            "on them would say nothing about other data; take them out of one of the two"
        )
