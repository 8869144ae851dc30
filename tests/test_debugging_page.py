"""docs/debugging.md prints what the commands print: its console blocks and its Python run here."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import onnx
import pytest

from graphopt.passes import TABLE
from tests.cli.conftest import Cli, cli
from tests.test_readme import ROOT, example

__all__ = ["cli"]

PAGE = ROOT / "docs" / "debugging.md"


def _blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(console|python)\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def _expected(shown: str) -> re.Pattern[str]:
    """What a block shows as a pattern: ``...`` stands for anything."""
    parts = (re.escape(part) for part in shown.split("..."))
    return re.compile(".*".join(parts), re.S)


def test_the_page_prints_what_the_commands_print(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(example(), tmp_path / "block.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TABLE, "_entries", dict(TABLE._entries))
    page = types.ModuleType("debugging_page")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    commands = 0
    for kind, text in _blocks():
        if kind == "python":
            exec(compile(text, str(PAGE), "exec"), page.__dict__)
            continue
        for command, shown in re.findall(r"^\$ graphopt (.*)\n((?:(?!\$ ).*\n)*)", text, re.M):
            found = cli(*shlex.split(command))
            assert found.code in (0, 9), found.err
            assert _expected(shown).fullmatch(found.out), f"{command}\n{found.out}"
            commands += 1
    assert commands > 8
    assert sorted(p.name for p in (tmp_path / "graphs").iterdir()) == [
        "000-source.gir",
        "001-simplify.gir",
    ]


def test_the_model_is_the_one_that_the_page_shows() -> None:
    import graphopt

    (shown,) = re.findall(r"^```gir\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    text = str(graphopt.from_onnx(example()))
    for line in shown.splitlines():
        assert line.strip() in ("...", *map(str.strip, text.splitlines())), line
