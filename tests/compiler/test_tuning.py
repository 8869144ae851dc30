"""Choices by measurement: who wins is told by a made-up clock, what is stored by a real compile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.backends import Target
from graphopt.backends.choices import Alternative, parse_choices, print_choices, readable
from graphopt.backends.cpu.cost import default_panels, direct, product, winograd
from graphopt.errors import OptionError
from graphopt.runtime.artifact import Artifact
from graphopt.tuning import Build, Turn, faster, tune
from graphopt.verify.compare import relative_error
from tests.backends.pipe import Net, host_level

TARGET = f"cpu{{levels={host_level()}}}"
NOTHING = Artifact({}, {})


def _site(name: str, choice: str = "direct", predicted: float = 1.0) -> Alternative:
    return Alternative(choice, name, frozenset({name}), predicted)


class Lab:
    """A machine whose steps take as long as it is told: microseconds by (name, choice)."""

    def __init__(self, times: dict[tuple[str, str], float], noise: float = 0.0) -> None:
        self.times, self.noise = times, noise
        self.names = sorted({name for name, _ in times})
        self.now = 0.0
        self.built: list[list[str]] = []
        self.random = random.Random(1)
        self.choices: dict[int, dict[str, str]] = {}

    def build(self, some: Sequence[Alternative]) -> Build:
        self.now += 0.5
        self.built.append(sorted(map(str, some)))
        build = Build(NOTHING, [frozenset({name}) for name in self.names])
        self.choices[id(build)] = {item.name: item.choice for item in some}
        self._keep = [*getattr(self, "_keep", []), build]
        return build

    def turn(self, build: Build) -> Turn:
        chosen = self.choices[id(build)]
        steps = [
            self.times[name, chosen.get(name, "")] * (1 + self.noise * self.random.gauss(0, 1))
            for name in self.names
        ]
        return Turn(steps, sum(steps))

    def race(self, a: Build, b: Build, seconds: float) -> tuple[list[Turn], list[Turn]]:
        self.now += seconds
        turns = [(self.turn(a), self.turn(b)) for _ in range(20)]
        return [x for x, _ in turns], [y for _, y in turns]

    def tune(self, alternatives: Sequence[Alternative], seconds: float = 100.0) -> list[str]:
        default = self.build([])
        won = tune(default, alternatives, self.build, seconds, self.race, lambda: self.now)
        return list(map(str, won))


def test_the_faster_one_is_chosen_and_the_slower_one_is_not() -> None:
    lab = Lab({("a", ""): 100, ("a", "direct"): 80, ("b", ""): 100, ("b", "direct"): 120})
    assert lab.tune([_site("a"), _site("b")]) == ["direct:a"]
    assert lab.built == [[], ["direct:a", "direct:b"], ["direct:a"]]


def test_the_best_of_several_at_one_step() -> None:
    times = {("a", ""): 100.0, ("a", "tile1"): 90.0, ("a", "tile3"): 70.0, ("a", "tile4"): 95.0}
    tiles = [_site("a", choice) for choice in ("tile1", "tile3", "tile4")]
    assert Lab(times).tune(tiles) == ["tile3:a"]


def test_what_is_within_the_noise_stays_the_default() -> None:
    lab = Lab({("a", ""): 100, ("a", "direct"): 97}, noise=0.2)
    assert lab.tune([_site("a")]) == []
    assert Lab({("a", ""): 100, ("a", "direct"): 99}).tune([_site("a")]) == []


def test_steps_that_hardly_count_are_left_alone() -> None:
    lab = Lab({("a", ""): 10_000, ("b", ""): 1, ("b", "direct"): 0.1, ("b", "tile1"): 0.1})
    assert lab.tune([_site("b"), _site("b", "tile1")]) == []
    assert lab.built == [[], ["direct:b"]]


def test_no_winner_when_the_whole_model_is_no_faster() -> None:
    class Contrary(Lab):
        def turn(self, build: Build) -> Turn:
            turn = super().turn(build)
            return Turn(turn.steps, 200 - turn.run)

    lab = Contrary({("a", ""): 100, ("a", "direct"): 80})
    assert lab.tune([_site("a")]) == []


def test_time_is_kept() -> None:
    times = {("a", ""): 100.0} | {("a", f"tile{i}"): 50.0 for i in range(1, 5)}
    lab = Lab(times)
    won = lab.tune([_site("a", f"tile{i}") for i in range(1, 5)], seconds=1.0)
    assert won in ([], ["tile1:a"])
    # A race ends when its share of the time is over; a build may run past the end.
    assert lab.now <= 1.0 + 4 * 0.5
    assert Lab(times).tune([_site("a", "tile1")], seconds=0.0) == []


def test_verdicts() -> None:
    assert faster([10.0] * 4, [5.0] * 4) is None  # too few to tell
    assert faster([10.0] * 5, [5.0] * 5) == 2
    assert faster([5.0] * 5, [10.0] * 5) is None
    outlier = [10.0] * 9 + [500.0]
    assert faster(outlier, [5.0] * 10) == 2
    assert faster([10.0] * 10, outlier) is None


def test_choices_as_an_option() -> None:
    names = ["conv1.weight", "a/b:0", "x=1,{y}+z", "über"]
    chosen = [Alternative("direct", name) for name in names] + [Alternative("rows", names[0])]
    target = Target("cpu").with_option("choices", print_choices(chosen))
    assert Target.parse(str(target)) == target
    parsed = parse_choices(target.option("choices"), ("direct", "rows"))
    assert parsed == {"direct": frozenset(names), "rows": frozenset(names[:1])}
    assert print_choices(reversed(chosen)) == target.option("choices")
    assert "direct:x=1,{y}+z" in readable(target.option("choices"))
    for bad in ("direct", "sideways:w"):
        with pytest.raises(OptionError, match="bad choice"):
            parse_choices(bad, ("direct", "rows"))


def test_predictions() -> None:
    assert winograd(1, 56, 56, 64, 64).seconds() < direct(1, 56, 56, 64, 64).seconds()
    assert winograd(1, 7, 7, 512, 512).seconds() > direct(1, 7, 7, 512, 512).seconds()
    # The wide tile is for few rows, the high one for many; a share of rows reads the weights twice.
    assert [default_panels(rows, 768) for rows in (1, 6, 7, 9, 12, 128)] == [4, 4, 3, 3, 2, 4]
    assert default_panels(128, 64) == 2
    assert product(6, 768, 768, panels=4).seconds() < product(6, 768, 768, panels=1).seconds()
    rows, columns = (product(16, 768, 768, split=split) for split in ("rows", "columns"))
    assert rows.nbytes == 2 * columns.nbytes
    assert (rows + columns).forks == 2


def _model() -> Net:
    net = Net()
    x = net.input("x", (1, 16, 24, 24))
    y = net("Relu", net("Conv", x, net.weight(32, 16, 3, 3), net.weight(32), pads=[1] * 4))
    y = net("Conv", y, net.weight(64, 32, 1, 1))
    y = net("Flatten", net("GlobalAveragePool", y))
    return net.output(net("MatMul", y, net.weight(64, 10)))


def test_a_tuned_artifact_is_right_and_can_be_made_again(tmp_path: Path) -> None:
    net = _model()
    model, feeds = net.model(), net.feeds()
    tuned = graphopt.compile(model, TARGET, tune=0.5, inputs=feeds, output=tmp_path / "a.gopt")
    target, choices = tuned.manifest["target"], tuned.manifest["choices"]
    assert choices == readable(Target.parse(target).option("choices"))
    graphopt.compile(model, target, inputs=feeds, output=tmp_path / "b.gopt")
    assert (tmp_path / "a.gopt").read_bytes() == (tmp_path / "b.gopt").read_bytes()


def test_every_choice_gives_the_same_numbers(tmp_path: Path) -> None:
    net = _model()
    model, feeds = net.model(), net.feeds()
    plain = graphopt.compile(model, TARGET, verify=False, output=tmp_path / "plain.gopt")
    (want,) = graphopt.load(tmp_path / "plain.gopt").run(feeds).values()
    names = [value["name"] for value in plain.json("plan")["values"] if value["kind"] == "constant"]
    weights = sorted({name.partition(".packed")[0] for name in names if ".packed" in name})
    assert len(weights) == 3
    for choice in ("direct", "winograd", "tile1", "tile3", "tile4", "rows", "columns"):
        text = print_choices(Alternative(choice, name) for name in weights)
        target = Target.parse(TARGET).with_option("choices", text)
        file = tmp_path / f"{choice}.gopt"
        artifact = graphopt.compile(model, target, output=file, inputs=feeds)
        assert artifact.manifest["choices"] == readable(text)
        steps = [step for step in artifact.json("plan")["steps"] if step["kind"] == "native"]
        kernels = [step["kernel"] for step in steps]
        assert ("conv_winograd" in kernels) == (choice != "direct")
        marked = [step for step in steps if {"tile", "share"} & set(step["attrs"])]
        assert bool(marked) == (choice not in ("direct", "winograd"))
        (got,) = graphopt.load(file).run(feeds).values()
        if choice == "direct":
            assert relative_error(got, want) <= 1e-5
        else:
            assert np.array_equal(got, want)
