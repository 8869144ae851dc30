"""The order of imports: who may use whom, lazy imports included.

``ir < ops < rewrite < {compress, codegen} < passes < backends < cli``; the rim uses the core and
the core never the rim. A lazy import inside a function couples rooms as a top one does, so it
counts; the few that the design wants stand in ``ALLOWED`` with their reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "graphopt"

RANK = {
    "ir": 0,
    "ops": 1,
    "rewrite": 2,
    "compress": 3,
    "codegen": 3,
    "passes": 4,
    "backends": 5,
    "cli": 6,
}
RIM = {"frontends", "exporters", "runtime", "data", "search", "verify"}
FACADE = "facade"  # modules that lie directly in graphopt/: the public API
BOTTOM = {"errors", "hashing"}  # what every room may use
NATIVE = "_native"

ALLOWED: dict[tuple[str, str], str] = {
    ("graphopt.runtime.session", "backends"): (
        "nodes that no kernel computes are interpreted, where the compiler is installed"
    ),
    ("graphopt.compress", "facade"): (
        "the public name of what quantizes a model from end to end, with passes and kernels"
    ),
}
"""(module, room) -> why this import against the order is right."""

THIRD_PARTY = {
    "tvm": {"codegen", "backends"},
    "tvm_ffi": {"codegen", "backends"},
    "onnx": {"frontends", "exporters", "verify", FACADE},
    "onnxruntime": {"verify"},
    "torch": {"frontends", "exporters"},
    "typer": {"cli"},
    "rich": {"cli"},
}
RUNTIME_NEEDS = {"numpy", "graphopt"}


@dataclass(frozen=True)
class Import:
    """One import statement: the module that it stands in, what it names, and its line."""

    module: str
    target: str
    line: int

    @property
    def room(self) -> str:
        return room_of(self.module)

    @property
    def where(self) -> str:
        return f"{self.module} line {self.line} imports {self.target}"


def room_of(module: str) -> str:
    """The room of a dotted name: a package of graphopt, ``facade``, ``errors`` or ``_native``."""
    parts = module.split(".")
    if len(parts) == 1:
        return FACADE
    if parts[1] in RANK or parts[1] in RIM or parts[1] in BOTTOM or parts[1] == NATIVE:
        return parts[1]
    return FACADE


def imports() -> Iterator[Import]:
    """Every import statement in the package, wherever in its file it stands."""
    for file in sorted(PACKAGE.rglob("*.py")):
        relative = file.relative_to(PACKAGE.parent).with_suffix("")
        is_package = relative.name == "__init__"
        parts = relative.parts[:-1] if is_package else relative.parts
        yield from _in_file(ast.parse(file.read_text()), parts, is_package)


def _in_file(tree: ast.Module, parts: tuple[str, ...], is_package: bool) -> Iterator[Import]:
    module = ".".join(parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - (1 if is_package else 0)
                base = ".".join([*parts[: len(parts) - up], *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield Import(module, name if _is_module(name) else base, node.lineno)


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name == "graphopt._native" or path.is_dir() or path.with_suffix(".py").exists()


OURS = [i for i in imports() if i.target.split(".")[0] == "graphopt"]
THEIRS = [i for i in imports() if i.target.split(".")[0] in THIRD_PARTY]


def refusal(item: Import) -> str | None:
    """Why an import inside graphopt breaks the order; None when it keeps it."""
    room, target = item.room, room_of(item.target)
    if room == target or target in BOTTOM or (item.module, target) in ALLOWED:
        return None
    if target == FACADE:
        if room in {FACADE, "cli"} or item.module == "graphopt.__main__":
            return None
        return "only the command line may use the public API"
    if target == "cli":
        return None if item.module == "graphopt.__main__" else "nothing uses the command line"
    if room == "runtime":
        return None if target == NATIVE else "the runtime needs numpy and the extension only"
    if target == NATIVE:
        return "below codegen nothing is native" if RANK.get(room, 9) < RANK["codegen"] else None
    if room in RIM or room in {FACADE, "cli"}:
        return None
    if target in RIM:
        return "the core does not know the rim"
    if RANK[target] >= RANK[room]:
        return f"{target} does not lie below {room}"
    return None


def test_imports_follow_the_order_of_the_rooms() -> None:
    assert OURS, "no imports were found: the test looks in the wrong place"
    broken = [f"{item.where}: {reason}" for item in OURS if (reason := refusal(item))]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("module", "target", "breaks"),
    [
        ("graphopt.ir.graph", "graphopt.ops.registry", True),
        ("graphopt.ops.conv", "graphopt.ir.graph", False),
        ("graphopt.codegen.emit", "graphopt.compress.prune", True),
        ("graphopt.passes.x", "graphopt.frontends.onnx", True),
        ("graphopt.frontends.onnx", "graphopt.passes.x", False),
        ("graphopt.runtime.session", "graphopt.ir", True),
        ("graphopt.runtime.session", "graphopt._native", False),
        ("graphopt.passes.x", "graphopt.compiler", True),
        ("graphopt.backends.cpu.lower", "graphopt.cli.main", True),
    ],
)
def test_the_rule_tells_good_from_bad(module: str, target: str, breaks: bool) -> None:
    assert (refusal(Import(module, target, 1)) is not None) == breaks


def test_third_party_packages_stay_in_their_rooms() -> None:
    broken = [
        f"{item.where}: only {', '.join(sorted(THIRD_PARTY[item.target.split('.')[0]]))} may"
        for item in THEIRS
        if item.room not in THIRD_PARTY[item.target.split(".")[0]]
    ]
    assert not broken, "\n".join(broken)


def test_the_core_names_no_backend() -> None:
    named = [
        item.where
        for item in OURS
        if item.room in RANK and item.room not in {"backends", "cli"}
        if item.target.startswith("graphopt.backends.")
        if (PACKAGE / "backends" / item.target.split(".")[2]).is_dir()
    ]
    assert not named, "\n".join(named)


def test_the_list_of_exceptions_is_used() -> None:
    used = {(item.module, room_of(item.target)) for item in OURS}
    assert set(ALLOWED) <= used, "an allowed exception that nothing needs any more"


def test_the_runtime_needs_numpy_and_the_extension_only() -> None:
    import sys

    foreign = [
        item.where
        for item in imports()
        if item.room == "runtime"
        if (top := item.target.split(".")[0]) not in RUNTIME_NEEDS
        and top not in sys.stdlib_module_names
    ]
    assert not foreign, "\n".join(foreign)
