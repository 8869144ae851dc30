"""The reader of cases takes no directive that it does not know, the runner no claim untested."""

from __future__ import annotations

import pytest

from graphopt.errors import ParseError
from graphopt.testing import parse_cases, run_case
from graphopt.testing.cases import Failure

GRAPH = """graph @g(%x: f32[2]) -> (%y) {
  %a = Identity(%x) @["id"]
  %y = Relu(%a) @["relu"]
}"""
AFTER = "graph @g(%x: f32[2]) -> (%y) {\n  %y = Relu(%x)\n}"


def _case(body: str) -> str:
    return f"// What it does.\n\n// CASE: one\n// PASS: simplify\n{body}"


def test_a_file_is_read() -> None:
    text = _case(f"// TOLERANCE: 1e-6\n{GRAPH}\n// EXPECT:\n{AFTER}\n") + (
        f"\n// CASE: two\n// PASS: simplify\n{AFTER}\n// UNCHANGED: DropIdentity at %y: Identity\n"
    )
    file = parse_cases(text)
    assert file.header == "What it does."
    first, second = file.cases
    assert (first.name, first.spec, first.options["TOLERANCE"]) == ("one", "simplify", "1e-6")
    assert first.after is not None and first.unchanged is None
    assert second.after is None and second.unchanged == "DropIdentity at %y: Identity"
    for case in file.cases:
        run_case(case)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "line 1: the file holds no case"),
        ("graph @g() -> () {}", "line 1: the file must open with a comment"),
        ("// PASS: simplify\n// CASE: a", "line 1: PASS stands before the first case"),
        ("// CASE:\n// PASS: x", "needs a name of its own"),
        (_case(GRAPH), "has no graph, EXPECT or UNCHANGED"),
        (_case(f"{GRAPH}\n// EXPECT\n{AFTER}"), "line 9: the directive EXPECT lacks its colon"),
        (_case(f"{GRAPH}\n// EXPCT:\n{AFTER}"), "there is no directive 'EXPCT'"),
        (_case(f"{GRAPH}\n// Expect:\n{AFTER}"), "there is no directive 'Expect'"),
        (_case(f"{GRAPH}\n//EXPECT {AFTER}"), "lacks its colon"),
        (_case(f"// a remark\n{GRAPH}\n// EXPECT:\n{AFTER}"), "there is no directive 'a'"),
        (_case(f"{GRAPH}\n// EXPECT: {AFTER}"), "EXPECT takes no value"),
        (_case(f"{GRAPH}\n// EXPECT:\n"), "has no graph after EXPECT"),
        (_case(f"{GRAPH}\n// UNCHANGED:\n"), "UNCHANGED needs a reason"),
        (_case(f"{GRAPH}\n// UNCHANGED: why\n{AFTER}"), "has text after UNCHANGED"),
        (_case(f"{GRAPH}\n// UNCHANGED: why\n// EXPECT:\n"), "second EXPECT"),
        (_case(f"// PASS: simplify\n{GRAPH}"), "PASS is given twice"),
        (_case(f"{GRAPH}\n// TOLERANCE: 1\n"), "TOLERANCE must stand before the graph"),
        (f"// CASE: a\n{GRAPH}\n// EXPECT:\n{AFTER}", "the case 'a' has no PASS"),
        (_case(f"{GRAPH}\n// EXPECT:\n{AFTER}\n// CASE: one\n"), "name of its own, not 'one'"),
    ],
)
def test_what_is_malformed_is_refused(text: str, cause: str) -> None:
    with pytest.raises(ParseError) as info:
        parse_cases(text)
    assert cause in str(info.value)


def _run(body: str) -> None:
    (case,) = parse_cases(_case(body)).cases
    run_case(case)


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (f"{GRAPH}\n// EXPECT:\n{GRAPH}", "%x stands where %a should"),
        (f"{GRAPH}\n// UNCHANGED: DropIdentity at %a: why", "should stay as it is"),
        (f"{AFTER}\n// UNCHANGED: because", "UNCHANGED must read"),
        (f"{AFTER}\n// UNCHANGED: NoRule at %y: x", "there is no rule NoRule"),
        (f"{AFTER}\n// UNCHANGED: DropIdentity at %z: x", "no node yields %z"),
        (f"{AFTER}\n// UNCHANGED: DropIdentity at %y: its mask", "refuses"),
        (f"// NUMBERS: no\n{GRAPH}\n// EXPECT:\n{AFTER}", "correct NUMBERS"),
        (f"// SPECIAL: maybe\n{GRAPH}\n// EXPECT:\n{AFTER}", "SPECIAL is yes or no"),
        (f"// SIZES: N\n{GRAPH}\n// EXPECT:\n{AFTER}", "bad SIZES"),
    ],
)
def test_a_case_that_does_not_hold_fails(body: str, cause: str) -> None:
    with pytest.raises(Failure) as info:
        _run(body)
    assert cause in str(info.value)
