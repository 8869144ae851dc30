"""Putting kernels together: parameters, names by content, the templates they need."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

__all__ = ["Kernels", "Parameter", "template"]

# In the order in which they build on each other; the first three are in every text.
_ALWAYS = ("prelude", "ptx", "scalar")


@dataclass(frozen=True)
class Parameter:
    """A pointer that a kernel takes: its name, C element type, and whether it is written."""

    name: str
    type: str
    written: bool = False

    def __str__(self) -> str:
        return f"{'' if self.written else 'const '}{self.type}* __restrict__ {self.name}"

    @property
    def field(self) -> str:
        """The declaration without ``__restrict__``, for a member."""
        return f"{'' if self.written else 'const '}{self.type}* {self.name}"


@cache
def template(name: str) -> str:
    """A file of ``kernels/``."""
    place = files("graphopt.backends.cuda") / "kernels" / f"{name}.cuh"
    return place.read_text(encoding="utf-8")


@dataclass
class Kernels:
    """All kernels of a program; equal ones are one."""

    templates: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        stem: str,
        parameters: Sequence[Parameter],
        body: str,
        threads: int,
        *,
        before: str = "",
        uses: str = "",
    ) -> str:
        """The name of a kernel. In ``before``, declarations that only it needs, ``@`` stands for
        its name; ``uses`` names the template."""
        if uses:
            self.templates.add(uses)
        content = "\n".join([before, body, ", ".join(map(str, parameters)), str(threads)])
        digest = hashlib.blake2b(content.encode(), digest_size=5).hexdigest()
        name = f"{stem}_{digest}"
        head = f'extern "C" __global__ void __launch_bounds__({threads}, 1) {name}('
        text = f"{head}{', '.join(map(str, parameters))}) {{\n{body}\n}}\n"
        self.texts[name] = (before + "\n" + text if before else text).replace("@", name)
        return name

    def source(self) -> str:
        """The whole text, which needs no other file."""
        order = [*_ALWAYS, *sorted(self.templates)]
        return "\n".join([*map(template, order), *(self.texts[n] for n in sorted(self.texts))])
