"""Targets as text, backends by name, what they say they can do."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

import graphopt
from graphopt.backends import Backend, Compiled, Target, Unavailable, find, names, registry
from graphopt.errors import OptionError, ToolchainError
from graphopt.ir import Graph, Node
from graphopt.rewrite import PassContext, Pipeline, Refusal
from tests.backends.pipe import Net


@pytest.mark.parametrize(
    ("spec", "kind", "options"),
    [
        ("cpu", "cpu", {}),
        (" cpu ", "cpu", {}),
        ("cpu{}", "cpu", {}),
        ("cpu{levels=v3}", "cpu", {"levels": "v3"}),
        ("cpu{ b = 2 , a=1}", "cpu", {"a": "1", "b": "2"}),
        ("my-npu{mode=x=y}", "my-npu", {"mode": "x=y"}),
    ],
)
def test_targets_parse_and_print(spec: str, kind: str, options: dict[str, str]) -> None:
    target = Target.parse(spec)
    assert target.kind == kind
    assert dict(target.options) == options
    assert Target.parse(str(target)) == target
    assert target.option("nothing", "default") == "default"


@pytest.mark.parametrize("spec", ["", "{}", "cpu{", "cpu}", "3pu", "cpu{a}", "cpu{a=1}x", "c pu"])
def test_targets_that_are_none(spec: str) -> None:
    with pytest.raises(OptionError, match="bad target"):
        Target.parse(spec)


def test_equal_options_in_any_order_are_equal_targets() -> None:
    assert Target.parse("cpu{a=1,b=2}") == Target.parse("cpu{b=2,a=1}")


def test_our_backends_are_found_like_everybody_elses() -> None:
    assert {"cpu", "reference"} <= set(names())
    assert names() == sorted(names())
    for name in ("cpu", "reference"):
        backend = find(name)
        assert backend.name == name
        assert backend.summary
        assert backend.probe() is None
        assert find(name) is backend


def test_options_that_a_backend_does_not_know() -> None:
    with pytest.raises(
        OptionError,
        match=r"no option 'size' \(it has: amx, choices, exact, exclude, levels, precision\)",
    ):
        find("cpu").check_options(Target.parse("cpu{size=3}"))
    with pytest.raises(OptionError, match=r"'reference' has no option 'size' \(it has: none\)"):
        find("reference").check_options(Target.parse("reference{size=3}"))


class NullBackend(Backend):
    """Runs nothing, accepts everything."""

    name: ClassVar[str] = "null"
    unavailable: ClassVar[Unavailable | None] = None

    def probe(self) -> Unavailable | None:
        """As the test says."""
        return self.unavailable

    def supports(self, node: Node, target: Target) -> Refusal | None:
        """Everything."""
        return None

    def pipeline(self, target: Target) -> Pipeline:
        """Nothing."""
        return Pipeline()

    def build(self, graph: Graph, target: Target, ctx: PassContext) -> Compiled:
        """A plan of nothing."""
        return Compiled(members={"plan": b"{}"})


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what other packages register."""

    def register(*found: tuple[str, str]) -> None:
        group = [EntryPoint(name, value, "graphopt.backends") for name, value in found]
        monkeypatch.setattr(registry, "entry_points", lambda group=group, **_: found_points)
        found_points = group
        registry._entries.cache_clear()
        registry.find.cache_clear()

    yield register
    monkeypatch.undo()
    registry._entries.cache_clear()
    registry.find.cache_clear()


def test_a_package_can_bring_a_backend(entries: Any) -> None:
    entries(("null", f"{__name__}:NullBackend"))
    assert "null" in names()
    net = Net()
    model = net.output(net("Relu", net.input("x", (2,)))).model()
    artifact = graphopt.compile(model, "null", verify=False)
    assert artifact.manifest["target"] == "null"
    assert artifact.read("plan") == b"{}"


def test_what_is_not_available_says_why(entries: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries(("null", f"{__name__}:NullBackend"))
    found = find("null")
    monkeypatch.setattr(type(found), "unavailable", Unavailable("no device", "buy one"))
    net = Net()
    model = net.output(net("Relu", net.input("x", (2,)))).model()
    with pytest.raises(ToolchainError, match="target 'null': no device; buy one"):
        graphopt.compile(model, "null")


def test_a_name_that_two_packages_claim_names_both(entries: Any) -> None:
    entries(("cpu", "other:Backend"))
    with pytest.raises(OptionError, match=r"two backends are called 'cpu': .*CpuBackend and other"):
        names()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere_at_all:Backend", "cannot be imported"),
        ("pathlib:Path", "is not a graphopt Backend"),
        ("pathlib:Nothing", "cannot be imported"),
    ],
)
def test_backends_that_are_none(entries: Any, value: str, message: str) -> None:
    entries(("broken", value))
    with pytest.raises(ToolchainError, match=message):
        find("broken")
