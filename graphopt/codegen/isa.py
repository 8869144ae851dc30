"""The instruction-set levels that code is generated for."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import OptionError

__all__ = ["LEVELS", "Isa", "isa"]


@dataclass(frozen=True, slots=True)
class Isa:
    """One level of the x86-64 psABI. ``bytes`` is the width of a vector register."""

    name: str
    bytes: int
    fma: bool
    f16: bool  # conversions between f16 and f32
    masks: bool  # masked loads and stores that cost no more than plain ones

    @property
    def lanes(self) -> int:
        """f32 elements in a vector register."""
        return self.bytes // 4


LEVELS = {
    level.name: level
    for level in (
        Isa("x86-64-v2", 16, fma=False, f16=False, masks=False),
        Isa("x86-64-v3", 32, fma=True, f16=True, masks=False),
        Isa("x86-64-v4", 64, fma=True, f16=True, masks=True),
    )
}


def isa(name: str) -> Isa:
    """The level of that name. Raises OptionError."""
    found = LEVELS.get(name)
    if found is None:
        raise OptionError(f"unknown ISA level '{name}'; there are {', '.join(LEVELS)}")
    return found
