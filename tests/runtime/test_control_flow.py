"""Control flow, data-dependent shapes and host nodes, on hand-written plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime_plans import PlanWriter

import graphopt.runtime as rt
from graphopt import _native
from graphopt.errors import ExecutionError


def _session(plan: PlanWriter, tmp_path: Path) -> rt.Session:
    return rt.load(plan.save(tmp_path / "m.gopt"), threads=2)


def _steps(plan: PlanWriter, build: Any) -> list[dict[str, Any]]:
    """The steps that `build` adds, taken out of the plan to be a body."""
    outer, plan.steps = plan.steps, []
    build()
    body, plan.steps = plan.steps, outer
    return body


def _f32(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def test_if_takes_either_branch_and_captures(tmp_path: Path) -> None:
    plan = PlanWriter()
    c, x = plan.input("c", [], "bool"), plan.input("x", ["N"])
    doubled, y = plan.temp("doubled", ["N"]), plan.temp("y", ["N"])
    then = _steps(plan, lambda: plan.call("k_add", [x, x, doubled], "N"))
    plan.step("if", cond=c, then=then, then_results=[doubled], outputs=[y])
    plan.steps[-1].update({"else": [], "else_results": [x]})
    plan.output("y", y)
    session = _session(plan, tmp_path)
    x_value = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(session(np.array(True), x_value), 2 * x_value)
    np.testing.assert_array_equal(session(np.array(False), x_value), x_value)


def test_if_branches_with_different_shapes(tmp_path: Path) -> None:
    """The output's size is a symbol that the branch sets; a later step uses it."""
    plan = PlanWriter()
    c, x, z = plan.input("c", [], "bool"), plan.input("x", ["N"]), plan.input("z", ["M"])
    chosen, y = plan.temp("chosen", ["K"]), plan.temp("y", ["K"])
    plan.step("if", cond=c, then=[], then_results=[x], outputs=[chosen], binds=[[0, 0, 2]])
    plan.steps[-1].update({"else": [], "else_results": [z]})
    plan.call("k_scale", [chosen, y], "K", dims=["K"])
    plan.output("y", y)
    assert plan.symbols == ["N", "M", "K"]
    session = _session(plan, tmp_path)
    a, b = np.ones(3, np.float32), np.ones(7, np.float32)
    np.testing.assert_array_equal(session(np.array(True), a, b), np.full(3, 3))
    np.testing.assert_array_equal(session(np.array(False), a, b), np.full(7, 7))


def _counting_loop(with_trip: bool, with_cond: bool) -> PlanWriter:
    """s += x and i += 1 while i < limit, at most trip times; sums and counts are stacked."""
    plan = PlanWriter()
    trip, limit = plan.input("trip", [], "int64"), plan.input("limit", [], "int64")
    x, start = plan.input("x", ["N"]), plan.input("start", [], "int64")
    one = plan.constant("one", np.array(1, np.int64))
    true = plan.constant("true", np.array(True))
    it, cond_in = plan.temp("it", [], "int64"), plan.temp("cond_in", [], "bool")
    s_in, i_in = plan.temp("s_in", ["N"]), plan.temp("i_in", [], "int64")
    s_out, i_out = plan.temp("s_out", ["N"]), plan.temp("i_out", [], "int64")
    more = plan.temp("more", [], "bool")

    def build() -> None:
        plan.call("k_add", [s_in, x, s_out], "N")
        plan.call("k_add_i64", [i_in, one, i_out], 1)
        plan.call("k_less", [i_out, limit, more], 1)

    outputs = [
        plan.temp("s", ["N"]),
        plan.temp("i", [], "int64"),
        plan.temp("all_s", ["T", "N"]),
        plan.temp("its", ["T"], "int64"),
    ]
    plan.step(
        "loop",
        trip=trip if with_trip else None,
        cond=true,
        iter=it,
        cond_in=cond_in,
        carried_in=[x, start],
        carried=[s_in, i_in],
        body=_steps(plan, build),
        cond_out=more if with_cond else cond_in,
        carried_out=[s_out, i_out],
        scan_out=[s_out, it],
        outputs=outputs,
    )
    for name, value in zip(("s", "i", "all_s", "its"), outputs, strict=True):
        plan.output(name, value)
    return plan


@pytest.mark.parametrize(("with_trip", "with_cond"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("trip", "limit"), [(4, 100), (5, 3), (1, 1)])
def test_loop(tmp_path: Path, with_trip: bool, with_cond: bool, trip: int, limit: int) -> None:
    session = _session(_counting_loop(with_trip, with_cond), tmp_path)
    x = _f32(1, 2, 3)
    count = min(trip if with_trip else 10**9, max(limit, 1) if with_cond else 10**9)
    for _ in range(2):
        out = session.run([np.int64(trip), np.int64(limit), x, np.int64(0)])
        np.testing.assert_array_equal(out["s"], x * (count + 1))
        assert out["i"] == count
        np.testing.assert_array_equal(out["its"], np.arange(count))
        expected = np.stack([x * (k + 2) for k in range(count)])
        np.testing.assert_array_equal(out["all_s"], expected)


def test_loop_that_never_runs(tmp_path: Path) -> None:
    session = _session(_counting_loop(True, False), tmp_path)
    out = session.run([np.int64(0), np.int64(0), _f32(1, 2, 3), np.int64(9)])
    np.testing.assert_array_equal(out["s"], _f32(1, 2, 3))
    assert out["i"] == 9
    assert out["all_s"].shape == (0, 3)
    assert out["its"].shape == (0,)


def test_loop_that_swaps_and_passes_through(tmp_path: Path) -> None:
    """a, b = b, a: copies one after the other would lose a value."""
    plan = PlanWriter()
    trip, a, b = plan.input("trip", [], "int64"), plan.input("a", [2]), plan.input("b", [2])
    ca, cb, cc = plan.temp("ca", [2]), plan.temp("cb", [2]), plan.temp("cc", [2])
    outputs = [plan.temp("oa", [2]), plan.temp("ob", [2]), plan.temp("oc", [2])]
    plan.step(
        "loop",
        trip=trip,
        carried_in=[a, b, a],
        carried=[ca, cb, cc],
        body=[],
        carried_out=[cb, ca, cc],
        scan_out=[],
        outputs=outputs,
    )
    for name, value in zip("abc", outputs, strict=True):
        plan.output(name, value)
    session = _session(plan, tmp_path)
    x, y = _f32(1, 2), _f32(3, 4)
    for trip_count in range(5):
        got = session(np.int64(trip_count), x, y)
        expected = (y, x, x) if trip_count % 2 else (x, y, x)
        for left, right in zip(got, expected, strict=True):
            np.testing.assert_array_equal(left, right)


def test_loop_whose_carried_value_grows(tmp_path: Path) -> None:
    """s = concat(s, s): its size is a symbol that every iteration sets anew."""
    plan = PlanWriter()
    trip, x = plan.input("trip", [], "int64"), plan.input("x", ["N"])
    s, twice, out = plan.temp("s", ["K"]), plan.temp("twice", ["L"]), plan.temp("out", ["R"])
    plan.host = ["concat"]
    node = {"node": 0, "inputs": [s], "outputs": [twice], "binds": [[0, 0, plan.symbol("L")]]}
    plan.step(
        "loop",
        trip=trip,
        carried_in=[x],
        carried=[s],
        body=_steps(plan, lambda: plan.step("host", **node)),
        carried_out=[twice],
        scan_out=[],
        outputs=[out],
    )
    plan.output("out", out)
    path = plan.save(tmp_path / "m.gopt")
    program = _native.Program(path, 1, lambda node, xs: [np.concatenate([xs[0], xs[0]])])
    for trip_count in (0, 1, 5):
        (result,) = program.run([np.array(trip_count), _f32(1, 2)])
        np.testing.assert_array_equal(result, np.tile(_f32(1, 2), 2**trip_count))


def _scan(in_axis: int, in_direction: int, out_axis: int, out_direction: int) -> PlanWriter:
    """state += slice; the running sums are stacked."""
    plan = PlanWriter()
    shape: list[Any] = ["T", "C"] if in_axis == 0 else ["C", "T"]
    x, start = plan.input("x", shape), plan.input("start", ["C"])
    state, part, total = plan.temp("state", ["C"]), plan.temp("part", ["C"]), plan.temp("t", ["C"])
    stacked = plan.temp("stacked", ["T", "C"] if out_axis == 0 else ["C", "T"])
    last = plan.temp("last", ["C"])
    plan.step(
        "scan",
        carried_in=[start],
        carried=[state],
        scan_in=[x],
        scan_slice=[part],
        body=_steps(plan, lambda: plan.call("k_add", [state, part, total], "C")),
        carried_out=[total],
        scan_out=[total],
        outputs=[last, stacked],
        in_axes=[in_axis],
        in_directions=[in_direction],
        out_axes=[out_axis],
        out_directions=[out_direction],
    )
    plan.output("last", last)
    plan.output("stacked", stacked)
    return plan


@pytest.mark.parametrize("in_direction", [0, 1])
@pytest.mark.parametrize("out_direction", [0, 1])
@pytest.mark.parametrize("in_axis", [0, 1, -1])
@pytest.mark.parametrize("out_axis", [0, -1])
@pytest.mark.parametrize("channels", [3, 4])  # 4 floats keep slices aligned, 3 do not
def test_scan(
    tmp_path: Path,
    in_axis: int,
    in_direction: int,
    out_axis: int,
    out_direction: int,
    channels: int,
) -> None:
    session = _session(_scan(in_axis, in_direction, out_axis, out_direction), tmp_path)
    for length in (1, 2, 5, 0):
        rows = np.random.default_rng(0).random((length, channels), dtype=np.float32)
        start = np.ones(channels, np.float32)
        last, stacked = session(rows if in_axis == 0 else rows.T, start)
        order = rows[::-1] if in_direction else rows
        sums = np.cumsum(np.concatenate([start[None], order]), axis=0, dtype=np.float32)[1:]
        np.testing.assert_array_equal(last, sums[-1] if length else start)
        expected = sums[::-1] if out_direction else sums
        np.testing.assert_array_equal(stacked, expected if out_axis == 0 else expected.T)


def test_scan_inputs_must_agree(tmp_path: Path) -> None:
    plan = PlanWriter()
    x, y = plan.input("x", ["T"]), plan.input("y", ["U"])
    px, py, out = plan.temp("px", []), plan.temp("py", []), plan.temp("out", ["T"])
    plan.step(
        "scan",
        carried_in=[],
        carried=[],
        scan_in=[x, y],
        scan_slice=[px, py],
        body=[],
        carried_out=[],
        scan_out=[px],
        outputs=[out],
    )
    plan.output("out", out)
    session = _session(plan, tmp_path)
    np.testing.assert_array_equal(session(_f32(1, 2), _f32(3, 4)), _f32(1, 2))
    with pytest.raises(ExecutionError, match="the scan inputs have 2 and 3 slices"):
        session(_f32(1, 2), _f32(1, 2, 3))


def test_read_dims_views_and_shapes(tmp_path: Path) -> None:
    """Reshape by a computed shape, then a value made of the new sizes."""
    plan = PlanWriter()
    x, to = plan.input("x", ["N"]), plan.input("to", [2], "int64")
    plan.step("read_dims", input=to, symbols=[plan.symbol("A"), plan.symbol("B")])
    y, sizes = plan.temp("y", ["A", "B"]), plan.temp("sizes", [3], "int32")
    plan.step("view", input=x, output=y)
    z = plan.temp("z", ["A", "B"])
    plan.call("k_scale", [y, z], ["*", "A", "B"], dims=["A"])
    product = ["*", "A", "B"]
    dims = [plan.dim(size) for size in ("A", "B", ["+", product, -1])]
    plan.step("shape", output=sizes, dims=dims)
    plan.output("z", z)
    plan.output("sizes", sizes)
    plan.output("y", y)
    session = _session(plan, tmp_path)
    x_value = np.arange(12, dtype=np.float32)
    for shape in ((3, 4), (12, 1), (2, 6)):
        z_value, sizes_value, y_value = session(x_value, np.array(shape))
        np.testing.assert_array_equal(z_value, x_value.reshape(shape) * shape[0])
        np.testing.assert_array_equal(y_value, x_value.reshape(shape))
        np.testing.assert_array_equal(sizes_value, np.array([*shape, 11], np.int32))
    with pytest.raises(
        ExecutionError, match=r"step 'view': shape \[12\] cannot be seen as \[5, 3\]"
    ):
        session(x_value, np.array([5, 3]))
    with pytest.raises(ExecutionError, match=r"impossible shape \[-2, -6\]"):
        session(x_value, np.array([-2, -6]))


def test_an_impossible_shape_matters_only_where_it_is_computed(tmp_path: Path) -> None:
    plan = PlanWriter()
    c, x = plan.input("c", [], "bool"), plan.input("x", ["N"])
    square, y = plan.temp("square", [["//", 12, "N"], "N"]), plan.temp("y", ["A", "B"])
    column = plan.temp("column", ["N", 1])
    then = _steps(plan, lambda: plan.step("view", input=x, output=square))
    otherwise = _steps(plan, lambda: plan.step("view", input=x, output=column))
    plan.step("if", cond=c, then=then, then_results=[square], outputs=[y])
    plan.steps[-1].update({"else": otherwise, "else_results": [column]})
    plan.output("y", y)
    session = _session(plan, tmp_path)
    assert session(np.array(True), np.zeros(12, np.float32)).shape == (1, 12)
    assert session(np.array(False), np.zeros(5, np.float32)).shape == (5, 1)
    assert session(np.array(False), np.zeros(0, np.float32)).shape == (0, 1)
    with pytest.raises(ExecutionError, match="divides by zero"):
        session(np.array(True), np.zeros(0, np.float32))
    with pytest.raises(ExecutionError, match=r"\[5\] cannot be seen as \[2, 5\]"):
        session(np.array(True), np.zeros(5, np.float32))


def test_view_infers_one_size(tmp_path: Path) -> None:
    plan = PlanWriter()
    x, y = plan.input("x", ["N"]), plan.temp("y", ["A", 2])
    plan.step("view", input=x, output=y)
    plan.output("y", y)
    session = _session(plan, tmp_path)
    assert session(np.zeros(6, np.float32)).shape == (3, 2)
    with pytest.raises(ExecutionError, match="step 'view'"):
        session(np.zeros(5, np.float32))


def test_checks_and_broadcasts(tmp_path: Path) -> None:
    plan = PlanWriter()
    x, y = plan.input("x", ["N"]), plan.input("y", ["M"])
    n, m = plan.dim("N"), plan.dim("M")
    plan.step("check", dims=[n, m], message="N and M must broadcast", broadcast=True)
    size = plan.temp("size", [1], "int64")
    plan.step("shape", output=size, dims=[plan.dim(["bcast", "N", "M"])])
    plan.output("size", size)
    session = _session(plan, tmp_path)
    assert session(np.zeros(3, np.float32), np.zeros(1, np.float32)) == 3
    assert session(np.zeros(1, np.float32), np.zeros(4, np.float32)) == 4
    with pytest.raises(ExecutionError, match=r"N and M must broadcast \(2 and 3\)"):
        session(np.zeros(2, np.float32), np.zeros(3, np.float32))
    del x, y


def test_data_dependent_kernel(tmp_path: Path) -> None:
    plan = PlanWriter()
    x = plan.input("x", ["N"])
    found = plan.temp("found", [1, "K"], "int64")
    flat, twice = plan.temp("flat", ["K"], "int64"), plan.temp("twice", ["K"], "int64")
    binds = [[0, 1, plan.symbol("K")]]
    plan.step("native", kernel="non_zero", inputs=[x], outputs=[found], attrs={}, binds=binds)
    plan.step("view", input=found, output=flat)
    plan.call("k_add_i64", [flat, flat, twice], "K")
    plan.output("found", found)
    plan.output("twice", twice)
    session = _session(plan, tmp_path)
    for data in (_f32(0, 1, 0, 2), _f32(0, 0), _f32(), _f32(5)):
        found_value, twice_value = session(data)
        np.testing.assert_array_equal(found_value, np.stack(np.nonzero(data)))
        np.testing.assert_array_equal(twice_value, 2 * np.flatnonzero(data))


def test_host_nodes(tmp_path: Path) -> None:
    plan = PlanWriter()
    x, y, z = plan.input("x", ["N", 2]), plan.temp("y", [2, "N"]), plan.temp("z", [2, "N"])
    plan.host = ["first", "second"]
    plan.step("host", node=1, inputs=[x, None], outputs=[y])
    plan.call("k_scale", [y, z], ["*", 2, "N"], dims=[2])
    plan.output("z", z)
    path = plan.save(tmp_path / "m.gopt")
    seen: list[Any] = []

    def host(node: int, inputs: list[Any]) -> list[Any]:
        seen.append((node, inputs))
        return [inputs[0].T]

    program = _native.Program(path, 1, host)
    assert program.host_nodes == ["first", "second"]
    data = np.arange(6, dtype=np.float32).reshape(3, 2)
    (result,) = program.run([data])
    np.testing.assert_array_equal(result, 2 * data.T)
    assert seen[0][0] == 1
    assert seen[0][1][1] is None
    kept = seen[0][1][0]
    program.run([data + 1])
    np.testing.assert_array_equal(kept, data)  # arguments are the callback's to keep

    with pytest.raises(_native.NativeError, match="needs the Python runtime's interpreter"):
        _native.Program(path).run([data])
    wrong_shape = _native.Program(path, 1, lambda node, xs: [xs[0]])
    with pytest.raises(
        _native.NativeError, match=r"came out with shape \[3, 2\] instead of \[2, 3\]"
    ):
        wrong_shape.run([data])
    wrong_type = _native.Program(path, 1, lambda node, xs: [xs[0].astype(np.float64)])
    with pytest.raises(_native.NativeError, match="gave float64 for output 0, not float32"):
        wrong_type.run([data])

    class Trouble(Exception):
        pass

    def fail(node: int, inputs: list[Any]) -> list[Any]:
        raise Trouble("on purpose")

    with pytest.raises(Trouble, match="on purpose"):
        _native.Program(path, 1, fail).run([data])


def test_in_place_outputs(tmp_path: Path) -> None:
    """A chain whose outputs may take their inputs' places needs one buffer for all."""
    plan = PlanWriter()
    x = plan.input("x", ["N"])
    last = x
    for i in range(6):
        following = plan.temp(f"t{i}", ["N"])
        plan.call("k_add", [last, x, following], "N", inplace=[[following, last]])
        last = following
    y = plan.temp("y", ["N"])
    plan.call("k_scale", [last, y], "N", dims=[1])
    plan.output("y", y)
    session = _session(plan, tmp_path)
    data = np.arange(100, dtype=np.float32)
    np.testing.assert_array_equal(session(data), 7 * data)
    assert session.arena_bytes([data]) == 448  # 400 bytes, rounded up to the alignment


def test_memory_is_shared_by_values_of_different_times(tmp_path: Path) -> None:
    plan = PlanWriter()
    last = x = plan.input("x", [1000])
    for i in range(20):
        following = plan.temp(f"t{i}", [1000])
        plan.call("k_add", [last, x, following], 1000)
        last = following
    plan.output("y", last)
    session = _session(plan, tmp_path)
    data = np.arange(1000, dtype=np.float32)
    np.testing.assert_array_equal(session(data), 21 * data)
    assert session.arena_bytes([data]) == 2 * 4032  # two of 4000 bytes are alive at a time
