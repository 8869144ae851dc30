"""The house is in order: one pass one file one name, specifications, ledgers, file sizes."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphopt.passes import TABLE

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 600
SOURCES = {".py", ".cpp", ".h", ".inc", ".c"}


def _tracked() -> Iterator[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: the files of the project are unknown")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            yield ROOT / name


def test_files_stay_small() -> None:
    long = [
        f"{file.relative_to(ROOT)}: {count} lines"
        for file in _tracked()
        if file.suffix in SOURCES
        if (count := len(file.read_text().splitlines())) > MAX_LINES
    ]
    assert not long, f"over {MAX_LINES} lines, is each one room with one purpose?\n" + "\n".join(
        long
    )


def test_nothing_large_is_committed() -> None:
    large = [str(f.relative_to(ROOT)) for f in _tracked() if f.stat().st_size > 1 << 20]
    assert not large, f"models and data are fetched or made, not committed: {large}"


@pytest.mark.parametrize("name", TABLE.names())
def test_a_pass_has_one_name_in_three_spellings(name: str) -> None:
    cls = TABLE.load(name)
    assert cls.name == name
    package = "graphopt.passes" if cls.exact else "graphopt.passes.lossy"
    assert cls.__module__ == f"{package}.{name.replace('-', '_')}"
    assert cls.exact or (name.startswith("lossy-") and (cls.__doc__ or "").startswith("Lossy"))
    assert cls.__name__ == "".join(part.capitalize() for part in name.split("-"))


@pytest.mark.parametrize("name", TABLE.names())
def test_a_pass_opens_with_what_it_does(name: str) -> None:
    """``before -> after``, conditions and soundness head the module, or its class."""
    cls = TABLE.load(name)
    assert inspect.getdoc(inspect.getmodule(cls)), name


def test_every_pass_has_its_specification_and_the_reverse() -> None:
    passes = {name.replace("-", "_") for name in TABLE.names()}
    texts = {file.stem for file in (ROOT / "passes").glob("*.gir")}
    assert passes - texts == set(), "passes without passes/<pass>.gir"
    assert texts - passes == set(), "passes/*.gir without a pass"


def test_every_pass_module_is_in_the_table() -> None:
    listed = {TABLE.load(name).__module__ for name in TABLE.names()}
    for file in (ROOT / "graphopt" / "passes").glob("*.py"):
        if re.search(r"^class \w+\((?:Pass|RulePass)\b", file.read_text(), re.M):
            module = f"graphopt.passes.{file.stem}"
            assert module in listed, f"{file.name} defines a pass that the table lacks"


def test_every_backend_has_its_ledger_and_the_reverse() -> None:
    rooms = {
        folder.name
        for folder in (ROOT / "graphopt" / "backends").iterdir()
        if folder.is_dir() and (folder / "__init__.py").exists()
    }
    for name in rooms:
        assert (ROOT / "backends" / name / "conformance.toml").is_file(), name
        assert (ROOT / "backends" / name / "README.md").is_file(), name
    ledgers = {file.parent.name for file in (ROOT / "backends").glob("*/conformance.toml")}
    assert ledgers == rooms


def test_no_source_is_left_unfinished() -> None:
    mark = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b")
    here = Path(__file__)
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in _tracked()
        if file.suffix in SOURCES and file != here
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if mark.search(line)
    ]
    assert not found, "\n".join(found)
