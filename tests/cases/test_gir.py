"""Every specification in passes/ and backends/*/passes/ holds, and covers its pass."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

import pytest

from graphopt.backends.cpu.table import TABLE as CPU_TABLE
from graphopt.backends.cuda.table import TABLE as CUDA_TABLE
from graphopt.ir import parse
from graphopt.passes import TABLE
from graphopt.rewrite import Pass, RulePass
from graphopt.testing import Case, CaseFile, parse_cases, run_case

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = {"cpu": CPU_TABLE, "cuda": CUDA_TABLE}
BOTH = TABLE.including(CPU_TABLE).including(CUDA_TABLE)
PASSES = {name.replace("-", "_"): BOTH.load(name) for name in TABLE.names()}
FILES: list[tuple[Path, type[Pass]]] = [
    *((ROOT / "passes" / f"{stem}.gir", cls) for stem, cls in PASSES.items()),
    *(
        (
            ROOT / "backends" / backend / "passes"
            / f"{name.removeprefix(f'{backend}-').replace('-', '_')}.gir",
            table.load(name),
        )
        for backend, table in BACKENDS.items()
        for name in table.names()
    ),
]  # fmt: skip


@cache
def cases_of(path: Path) -> CaseFile:
    return parse_cases(path.read_text())


def _all_cases() -> list[object]:
    return [
        pytest.param(case, id=f"{path.stem}-{case.name.replace(' ', '_')}")
        for path, _ in FILES
        if path.exists()
        for case in cases_of(path).cases
    ]


@pytest.mark.parametrize("case", _all_cases())
def test_case(case: Case) -> None:
    run_case(case, BOTH)


@pytest.mark.parametrize(
    ("path", "cls"), FILES, ids=lambda x: x.stem if isinstance(x, Path) else ""
)
def test_a_specification_opens_as_its_module_does(path: Path, cls: type[Pass]) -> None:
    module = inspect.getmodule(cls)
    assert module is not None
    assert cases_of(path).header == inspect.getdoc(module)


@pytest.mark.parametrize(
    ("path", "cls"), FILES, ids=lambda x: x.stem if isinstance(x, Path) else ""
)
def test_a_specification_covers_its_pass(path: Path, cls: type[Pass]) -> None:
    """The pass fires and refuses; each of its rules does both."""
    cases = cases_of(path).cases
    fired = {edit.rule for case in cases if case.after for edit in run_case(case, BOTH)}
    assert fired, "no case changes anything"
    assert any(case.unchanged for case in cases), "no case says when the pass stays away"
    pass_ = cls()
    if isinstance(pass_, RulePass):
        names = {rule.name for rule in pass_.rules(parse("graph @empty() -> () {}"))}
        assert names <= fired, "rules that no case sees fire"
        refused = {case.unchanged.split()[0] for case in cases if case.unchanged}
        assert names <= refused, "rules that no case sees refuse"


def test_no_specification_is_forgotten() -> None:
    on_disk = {*(ROOT / "passes").glob("*.gir"), *(ROOT / "backends").glob("*/passes/*.gir")}
    assert on_disk == {path for path, _ in FILES}
