"""What a backend is: capabilities asked with reasons, an order of work as data, text, then code."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from graphopt.backends.choices import Alternative
from graphopt.errors import OptionError
from graphopt.ir import DType, Graph, Node
from graphopt.rewrite import PassContext, Pipeline, Refusal

__all__ = ["Backend", "Compiled", "Executable", "Target", "Unavailable"]

_SPEC = re.compile(r"(?P<kind>[A-Za-z][\w-]*)(?:\{(?P<options>.*)\})?\Z")


@dataclass(frozen=True, slots=True)
class Target:
    """What is compiled for: a backend's name and its options, ``cpu{threads=2,levels=v3+v4}``."""

    kind: str
    options: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def parse(spec: str) -> Target:
        """The target that ``spec`` describes. Raises OptionError."""
        match = _SPEC.match(spec.strip())
        if match is None:
            raise OptionError(f"bad target '{spec}': expected 'name' or 'name{{key=value,...}}'")
        options: list[tuple[str, str]] = []
        for item in filter(None, (match["options"] or "").split(",")):
            key, equals, value = item.partition("=")
            if not equals:
                raise OptionError(f"bad target '{spec}': option '{item}' needs '=value'")
            options.append((key.strip(), value.strip()))
        return Target(match["kind"], tuple(sorted(options)))

    def option(self, name: str, default: str = "") -> str:
        """One option's text."""
        return dict(self.options).get(name, default)

    def with_option(self, name: str, value: str) -> Target:
        """The target with one option set."""
        return Target(self.kind, tuple(sorted({**dict(self.options), name: value}.items())))

    def __str__(self) -> str:
        inner = ",".join(f"{key}={value}" for key, value in self.options)
        return self.kind + (f"{{{inner}}}" if inner else "")


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a backend cannot work here, and what would help."""

    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class Executable(Protocol):
    """Something that runs: arrays by input name in, arrays by output name out."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Runs once."""
        ...


@dataclass
class Compiled:
    """What a backend makes of a graph: members of an artifact, and notes for the report.

    ``members`` maps a member's name to its bytes, or to a list of pieces (bytes,
    C-contiguous arrays or constants) that are written one after another. ``fallbacks`` lists nodes
    that the reference interpreter will run, with the reason of each. In ``notes``,
    ``lowered_precision`` lists a source node of each layer that the target's option ``precision``
    changed; the option ``exclude``, names joined by '+', must be able to leave it.
    """

    members: dict[str, bytes | Sequence[Any]] = field(default_factory=dict)
    fallbacks: list[tuple[Node, str]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Backend(ABC):
    """A way to run graphs on one kind of hardware. Found by the entry point group
    ``graphopt.backends``; a package of its own can bring one."""

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    # Names of target options that the backend understands, with a line each.
    options: ClassVar[Mapping[str, str]] = {}
    dtypes: ClassVar[frozenset[DType]] = frozenset()

    def probe(self) -> Unavailable | None:
        """Why the backend cannot compile here; None when it can."""
        return None

    @abstractmethod
    def supports(self, node: Node, target: Target) -> Refusal | None:
        """Why ``node`` cannot run natively on ``target``; None when it can."""

    def refuses(self, graph: Graph, target: Target) -> str | None:
        """Why a whole CORE graph must run in the reference interpreter; None when it need not."""
        return None

    @abstractmethod
    def pipeline(self, target: Target) -> Pipeline:
        """The passes that take a CORE graph to LOWERED(target)."""

    @abstractmethod
    def build(self, graph: Graph, target: Target, ctx: PassContext) -> Compiled:
        """Code and plan for a LOWERED graph. The only step that needs a toolchain."""

    def alternatives(self, graph: Graph, target: Target) -> list[Alternative]:
        """Other choices for what a LOWERED graph runs, for a measurement to try; the option
        ``choices``, as :func:`~graphopt.backends.choices.print_choices` writes it, must be able to
        make them. None by default."""
        return []

    def check_options(self, target: Target) -> None:
        """Raises OptionError for an option that the backend does not know."""
        for key, _ in target.options:
            if key not in self.options:
                known = ", ".join(sorted(self.options)) or "none"
                raise OptionError(f"target '{self.name}' has no option '{key}' (it has: {known})")


PackFunction = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
