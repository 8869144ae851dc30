"""Choices between kernels that a measurement made, as a target option that a compile obeys.

``cpu{choices=direct:conv1.weight+columns:fc.weight}``: what to do, and by the name of its weights
where. Names are escaped as in a URL, so that a target prints and parses whatever they hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from graphopt.errors import OptionError
from graphopt.rewrite.names import escape_name, unescape_name

__all__ = ["Alternative", "parse_choices", "print_choices", "readable"]


@dataclass(frozen=True)
class Alternative:
    """Another way to run what a compile has chosen a kernel for.

    ``choice`` and ``name`` are what the option ``choices`` says for it; ``sites`` are the source
    nodes whose steps it replaces; ``predicted`` is its time over that of the present choice.
    """

    choice: str
    name: str
    sites: frozenset[str] = field(default_factory=frozenset)
    predicted: float = 1.0

    def __str__(self) -> str:
        return f"{self.choice}:{self.name}"


def print_choices(choices: Iterable[Alternative]) -> str:
    """The option's text, the same whatever the order."""
    return "+".join(sorted(f"{c.choice}:{escape_name(c.name)}" for c in choices))


def parse_choices(text: str, known: Iterable[str]) -> dict[str, frozenset[str]]:
    """Names by choice, for each of ``known``. Raises OptionError for another choice."""
    result: dict[str, set[str]] = {choice: set() for choice in known}
    for item in filter(None, text.split("+")):
        choice, colon, name = item.partition(":")
        if not colon or choice not in result:
            raise OptionError(
                f"bad choice '{item}': expected 'choice:weights' with one of {', '.join(result)}"
            )
        result[choice].add(unescape_name(name))
    return {choice: frozenset(names) for choice, names in result.items()}


def readable(text: str) -> list[str]:
    """The choices of an option's text for a person: names as they are."""
    return [unescape_name(item) for item in text.split("+") if item]
