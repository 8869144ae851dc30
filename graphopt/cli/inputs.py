"""Made-up inputs for artifacts, from the types in their manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import OptionError
from graphopt.ir import Graph
from graphopt.ops.text import parse
from graphopt.runtime.artifact import Artifact
from graphopt.verify import default_sizes, random_inputs

__all__ = ["artifact_inputs", "artifact_interface", "parse_sizes"]


def parse_sizes(items: Sequence[str] | None) -> dict[str, int]:
    """``NAME=N`` items as a mapping. Raises OptionError."""
    result: dict[str, int] = {}
    for item in items or ():
        name, equals, text = item.partition("=")
        if not name or not equals or not text.isdigit():
            raise OptionError(f"bad --size '{item}': expected NAME=N")
        result[name] = int(text)
    return result


def artifact_interface(path: Path) -> Graph:
    """A graph without nodes that has the artifact's inputs. Raises ArtifactError."""
    manifest = Artifact.load(path).manifest
    graph = Graph(str(manifest.get("name", "main")))
    for item in manifest["inputs"]:
        graph.add_input(item["name"], _type(item["type"]))
    return graph


def _type(text: str) -> Any:
    return parse(f"graph @t(%x: {text}) -> () {{ }}").inputs[0].type


def artifact_inputs(path: Path, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """Random inputs; ``sizes`` fixes dynamic sizes, the others get likely ones.

    Raises OptionError for a size that the artifact does not have, or that is too large.
    """
    graph = artifact_interface(path)
    chosen = dict(default_sizes(graph)[0])
    for name in sizes:
        if name not in chosen:
            known = ", ".join(sorted(chosen)) or "none"
            raise OptionError(f"the artifact has no dynamic size '{name}' (it has: {known})")
    try:
        return random_inputs(graph, {**chosen, **sizes}, seed)
    except (MemoryError, ValueError, OverflowError):
        shown = ", ".join(f"{name}={size}" for name, size in {**chosen, **sizes}.items())
        raise OptionError(f"inputs of size {shown} do not fit into memory") from None
