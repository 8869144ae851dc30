"""Everything that can be wrong on the command line: one line, the documented exit code, no trace.

Each case lists the folder that it works in before and after: nothing may be left behind.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphopt.errors import GraphoptError
from tests.backends.pipe import Net
from tests.cli.conftest import ROOT, Cli, Result, listing, spawn

# ---- models ----


def _broken_models(model: Path, folder: Path) -> dict[str, Path]:
    data = model.read_bytes()
    files = {
        "missing": None,
        "empty": b"",
        "truncated": data[: len(data) // 2],
        "truncated early": data[:9],
        "text": b"this is no model\n" * 10,
        "zeros": bytes(1000),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
    for name, content in files.items():
        if content is not None:
            (folder / f"{name}.onnx").write_bytes(content)
    (folder / "folder.onnx").mkdir()
    return {name: folder / f"{name}.onnx" for name in [*files, "folder"]} | {
        "under a file": folder / "text.onnx" / "model.onnx",
        "long name": folder / ("x" * 300 + ".onnx"),
    }


@pytest.mark.parametrize("command", ["compile", "check", "inspect", "optimize"])
@pytest.mark.parametrize(
    "kind",
    [
        "missing", "empty", "truncated", "truncated early", "text", "zeros", "picture", "folder",
        "under a file", "long name",
    ],
)  # fmt: skip
def test_models_that_cannot_be_read(
    cli: Cli, model: Path, tmp_path: Path, command: str, kind: str
) -> None:
    path = _broken_models(model, tmp_path)[kind]
    before = listing(tmp_path)
    outputs = ["-o", tmp_path / "out"] if command in ("compile", "optimize") else []
    found = cli(command, path, *outputs)
    assert found.code == 3, found.err
    assert path.name in found.error
    assert listing(tmp_path) == before


def test_a_model_that_breaks_the_specification(cli: Cli, tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", (2, 3))
    path = tmp_path / "bad.onnx"
    path.write_bytes(net.output(net("MatMul", x, net.weight(4, 5))).model().SerializeToString())
    before = listing(tmp_path)
    found = cli("compile", path)
    assert found.code == 3
    assert "n0" in found.error
    assert "MatMul" in found.error
    assert listing(tmp_path) == before


def test_a_custom_op_is_named_with_what_to_do(cli: Cli, tmp_path: Path) -> None:
    net = Net()
    y = net("Gizmo", net.input("x", (2, 3)), domain="com.vendor")
    path = tmp_path / "custom.onnx"
    path.write_bytes(net.output(net("Relu", y)).model().SerializeToString())
    before = listing(tmp_path)
    for options in ((), ("--strict",)):
        found = cli("compile", path, *options)
        assert found.code == 4, found.err
        assert "n0" in found.error
        assert "com.vendor" in found.error
        assert "Gizmo" in found.error
        assert re.search(r"export.*register", found.error)
        assert listing(tmp_path) == before
    checked = cli("check", path)
    assert checked.code == 4
    assert "Gizmo" in checked.out
    assert "graphopt.ops.register" in checked.out


# ---- options ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "gpu9000"], "there is no target 'gpu9000'"),
        (["--target", "cpuu"], "did you mean 'cpu'"),
        (["--target", "cpu{threads=2}"], "target 'cpu' has no option 'threads'"),
        (["--target", "cpu{levels=v9}"], "there is no ISA level 'v9'"),
        (["--target", "cpu{levels=}"], "ISA level"),
        (["--target", "cpu{levels}"], "needs '=value'"),
        (["--target", "cpu{"], "bad target 'cpu{'"),
        (["--target", ""], "bad target ''"),
        (["-O", "O9"], "there is no optimization level 'O9'"),
        (["--precision", "int3"], "there is no precision 'int3'"),
        (["--input-shape", "x"], "expected NAME:D0,D1"),
        (["--input-shape", ":1,2"], "expected NAME:D0,D1"),
        (["--input-shape", "x:-1,4"], "cannot be negative"),
        (["--input-shape", "y:1,4"], "'y'"),
        (["--input-shape", "x:1,4,5"], "x"),
        (["--input-shape", "x:"], "x"),
        (["--input-shape", "x:2,%$"], "x"),
        (["--input-shape", "x:2,4.5"], "x"),
        (["--input-shape", "x:99999999999999999999,4"], "x"),
    ],
)
def test_options_that_do_not_fit(
    cli: Cli, model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    found = cli("compile", model, "-o", tmp_path / "m.gopt", *options)
    assert found.code == 2, found.err
    assert message in found.error
    assert listing(tmp_path) == {}


def test_shapes_that_the_model_cannot_take(cli: Cli, model: Path, tmp_path: Path) -> None:
    """The option is well-formed; the model with that shape is not."""
    found = cli("compile", model, "-o", tmp_path / "m.gopt", "--input-shape", "x:2,5")
    assert found.code == 3
    assert "'n0' (Gemm): the inner sizes of the product differ: 5 is not 4" in found.error
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["compyle"],
        ["compile"],
        ["compile", "a", "b"],
        ["compile", "a", "--nonsense"],
        ["run"],
        ["run", "a.gopt", "--threads", "many"],
        ["bench", "a.gopt", "--runs", "0"],
        ["bench", "a.gopt", "--runs", "-3"],
        ["optimize", "a.onnx"],
        ["optimize", "a.onnx", "-o", "b.onnx", "--stop-after", "-1"],
        ["targets", "cpu"],
    ],
    ids=" ".join,
)
def test_usage_errors(cli: Cli, arguments: list[str]) -> None:
    found = cli(*arguments)
    assert found.code == 2
    assert found.out == ""
    assert "Error" in found.err
    assert "--help' for help" in found.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--passes", "nonsense"], "there is no pass 'nonsense'"),
        (["--passes", "fold-constant"], "did you mean fold-constants"),
        (["--passes", "simplify{"], "brace|bracket"),
        (["--passes", "simplify{nothing=1}"], "has no option 'nothing'"),
        (["--passes", "repeat[x](simplify)"], "bad repeat count"),
        (["--opset", "1"], "opset"),
        (["--opset", "999"], "opset"),
    ],
)
def test_optimize_options_that_do_not_fit(
    cli: Cli, model: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    found = cli("optimize", model, "-o", tmp_path / "out.onnx", *options)
    assert found.code in (2, 4), found.err
    assert re.search(message, found.error)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("command", ["run", "bench"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "M=3"], "no dynamic size 'M' (it has: N)"),
        (["--size", "N"], "expected NAME=N"),
        (["--size", "N=-1"], "expected NAME=N"),
        (["--size", "N=x"], "expected NAME=N"),
        (["--size", "=3"], "expected NAME=N"),
        (["--threads", "0"], "number of threads is 0"),
        (["--threads", "-2"], "number of threads is -2"),
    ],
)
def test_run_options_that_do_not_fit(
    cli: Cli, artifact: Path, command: str, options: list[str], message: str
) -> None:
    found = cli(command, artifact, *options)
    assert found.code == 2, found.err
    assert message in found.error


def test_more_input_than_memory(cli: Cli, artifact: Path) -> None:
    found = cli("run", artifact, "--size", f"N={10**15}")
    assert found.code in (2, 8), found.err
    assert re.search("memory|large", found.error)


# ---- arrays ----


def _broken_arrays(folder: Path) -> dict[str, Path]:
    good = np.ones((2, 4), np.float32)
    np.savez(folder / "good.npz", x=good)
    data = (folder / "good.npz").read_bytes()
    (folder / "good.npz").unlink()
    (folder / "text.npz").write_bytes(b"no arrays here")
    (folder / "empty.npz").write_bytes(b"")
    (folder / "truncated.npz").write_bytes(data[: len(data) // 2])
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 255
    (folder / "flipped.npz").write_bytes(flipped)
    (folder / "folder.npz").mkdir()
    np.save(folder / "single.npy", good)
    (folder / "single.npy").rename(folder / "single.npz")
    np.savez(folder / "pickled.npz", x=np.array([{"a": 1}], dtype=object))
    np.savez(folder / "name.npz", y=good)
    np.savez(folder / "extra.npz", x=good, z=good)
    np.savez(folder / "nothing.npz")
    np.savez(folder / "double.npz", x=good.astype(np.float64))
    np.savez(folder / "integers.npz", x=good.astype(np.int32))
    np.savez(folder / "words.npz", x=np.array([["a", "b", "c", "d"]]))
    np.savez(folder / "wide.npz", x=np.ones((2, 5), np.float32))
    np.savez(folder / "flat.npz", x=np.ones(4, np.float32))
    np.savez(folder / "complex.npz", x=good.astype(np.complex64))
    return {path.stem: path for path in folder.iterdir()} | {"missing": folder / "missing.npz"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "No such file"),
        ("text", "cannot read inputs"),
        ("empty", "cannot read inputs"),
        ("truncated", "cannot read inputs"),
        ("flipped", "inputs"),
        ("folder", "Is a directory"),
        ("single", "not an .npz file"),
        ("pickled", "cannot read inputs"),
        ("name", "'y'"),
        ("extra", "'z'"),
        ("nothing", "'x' is missing"),
        ("double", "float64"),
        ("integers", "int32"),
        ("words", "x"),
        ("wide", r"\[2, 5\]"),
        ("flat", r"\[4\]"),
        ("complex", "complex64"),
    ],
)
@pytest.mark.parametrize("command", ["run", "bench", "compile"])
def test_arrays_that_do_not_fit(
    cli: Cli, model: Path, artifact: Path, tmp_path: Path, command: str, kind: str, message: str
) -> None:
    path = _broken_arrays(tmp_path)[kind]
    before = listing(tmp_path)
    if command == "compile":
        found = cli("compile", model, "-o", tmp_path / "m.gopt", "--inputs", path)
    else:
        found = cli(command, artifact, "--inputs", path)
    assert found.code == 8, found.err
    assert re.search(message, found.error)
    assert listing(tmp_path) == before


def test_values_that_an_operator_forbids(cli: Cli, tmp_path: Path) -> None:
    net = Net()
    y = net("Gather", net.weight(4, 3), net.input("i", (2,), np.int64))
    source, path, out = tmp_path / "g.onnx", tmp_path / "g.npz", tmp_path / "g.gopt"
    source.write_bytes(net.output(y).model().SerializeToString())
    np.savez(path, i=np.array([0, 4]))
    assert cli("compile", source, "-o", out, "--no-verify").code == 0
    before = listing(tmp_path)
    found = cli("run", out, "--inputs", path, "-o", tmp_path / "y.npz")
    assert found.code == 10
    assert "n0" in found.error
    assert listing(tmp_path) == before


# ---- artifacts ----


@pytest.mark.parametrize("command", ["run", "bench", "inspect"])
@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "flipped", "foreign", "folder"])
def test_artifacts_that_cannot_be_read(
    cli: Cli, artifact: Path, tmp_path: Path, command: str, kind: str
) -> None:
    path = tmp_path / "bad.gopt"
    data = artifact.read_bytes()
    middle = len(data) // 2
    content = {
        "empty": b"",
        "truncated": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "foreign": b"PK\x03\x04" + bytes(1000),
    }.get(kind)
    if content is not None:
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    before = listing(tmp_path)
    found = cli(command, path)
    assert found.code == 7, found.err
    assert "bad.gopt" in found.error
    assert listing(tmp_path) == before


# ---- outputs ----


def _unwritable(folder: Path) -> dict[str, Path]:
    (folder / "file").write_bytes(b"kept")
    (folder / "folder").mkdir()
    (folder / "full").mkdir()
    (folder / "full" / "kept").write_bytes(b"kept")
    os.mkfifo(folder / "pipe")  # renaming a file over it would destroy it, /dev/null no less
    return {
        "nonexistent folder": folder / "none" / "out",
        "folder": folder / "folder",
        "full folder": folder / "full",
        "under a file": folder / "file" / "out",
        "long name": folder / ("x" * 300),
        "pipe": folder / "pipe",
    }


@pytest.mark.parametrize(
    "kind",
    ["nonexistent folder", "folder", "full folder", "under a file", "long name", "pipe"],
)
@pytest.mark.parametrize("command", ["compile", "run", "optimize", "optimize --log"])
def test_outputs_that_cannot_be_written(
    cli: Cli, model: Path, artifact: Path, tmp_path: Path, command: str, kind: str
) -> None:
    path = _unwritable(tmp_path)[kind]
    before = listing(tmp_path)
    found = _write(cli, command, model, artifact, path, tmp_path / "out.onnx")
    assert found.code == 7, found.err
    assert str(path)[:100] in found.error
    assert listing(tmp_path) == before
    assert (tmp_path / "pipe").is_fifo()


def _write(cli: Cli, command: str, model: Path, artifact: Path, path: Path, other: Path) -> Result:
    if command == "compile":
        return cli("compile", model, "-o", path)
    if command == "run":
        return cli("run", artifact, "-o", path)
    if command == "optimize":
        return cli("optimize", model, "-o", path)
    return cli("optimize", model, "-o", other, "--log", path)


def _obey_permissions() -> None:
    """Takes from root the right to pass over permissions (in the child, before it starts)."""
    drop, override, read_search = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_*
    libc = ctypes.CDLL(None)
    for capability in (override, read_search):
        libc.prctl(drop, capability, 0, 0, 0)


def _spawn_obeying(*arguments: object, **env: str) -> Result:
    return spawn(*arguments, env=env, preexec_fn=_obey_permissions)


def test_a_model_that_may_not_be_read(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.read_bytes())
    path.chmod(0)
    found = _spawn_obeying("compile", path, "-o", tmp_path / "m.gopt")
    assert found.code == 3
    assert "Permission denied" in found.error
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_folder_that_may_not_be_written(model: Path, artifact: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    path, ready = closed / "m.onnx", closed / "m.gopt"
    path.write_bytes(model.read_bytes())
    ready.write_bytes(artifact.read_bytes())
    closed.chmod(0o555)
    try:
        for arguments in (
            ("compile", path, "-o", closed / "new.gopt"),
            ("run", ready, "-o", closed / "y.npz"),
            ("optimize", path, "-o", closed / "new.onnx"),
        ):
            found = _spawn_obeying(*arguments)
            assert found.code == 7, found.err
            assert "Permission denied" in found.error
            assert sorted(p.name for p in closed.iterdir()) == ["m.gopt", "m.onnx"]
        # A cache that cannot be written is no error.
        out = tmp_path / "out.gopt"
        found = _spawn_obeying("compile", path, "-o", out, GRAPHOPT_CACHE=str(closed))
        assert found.code == 0, found.err
    finally:
        closed.chmod(0o755)


def test_a_failed_compile_keeps_the_artifact_of_before(
    cli: Cli, model: Path, artifact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.gopt"
    out.write_bytes(artifact.read_bytes())
    before = listing(tmp_path)
    assert cli("compile", model, "-o", out, "--target", "nothing").code == 2
    assert cli("compile", tmp_path / "none.onnx", "-o", out).code == 3
    assert listing(tmp_path) == before


# ---- packages that are not there ----


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("tvm", ["compile", "MODEL", "-o", "OUT"], "graphopt[cpu]"),
        ("tvm", ["check", "MODEL"], "graphopt[cpu]"),
        ("onnx", ["compile", "MODEL", "-o", "OUT"], "graphopt[onnx]"),
        ("onnx", ["inspect", "MODEL"], "graphopt[onnx]"),
        ("onnx", ["optimize", "MODEL", "-o", "OUT"], "graphopt[onnx]"),
        ("typer", ["targets"], "graphopt[cli]"),
    ],
)
def test_missing_packages_are_named(
    model: Path, tmp_path: Path, missing: str, arguments: list[str], message: str
) -> None:
    places = {"MODEL": model, "OUT": tmp_path / "out"}
    block = f"import sys; sys.modules[{missing!r}] = None"
    found = spawn(*(places.get(a, a) for a in arguments), code=block)
    assert found.code == 6, found.err
    assert message in found.error
    assert listing(tmp_path) == {}


def test_targets_says_what_is_missing() -> None:
    found = spawn("targets", "--json", code="import sys; sys.modules['tvm'] = None")
    assert found.code == 0
    assert "graphopt[cpu]" in found.out


def test_without_onnxruntime_the_interpreter_checks(model: Path, tmp_path: Path) -> None:
    block = "import sys; sys.modules['onnxruntime'] = None"
    found = spawn("compile", model, "-o", tmp_path / "m.gopt", code=block)
    assert found.code == 0, found.err
    assert "verified against graphopt interpreter" in found.out


def test_running_needs_neither_tvm_nor_onnx(artifact: Path) -> None:
    block = "import sys; sys.modules.update(tvm=None, onnx=None, onnxruntime=None, torch=None)"
    assert spawn("run", artifact, code=block).code == 0
    assert spawn("bench", artifact, "--runs", 2, code=block).code == 0
    assert spawn("inspect", artifact, code=block).code == 0


# ---- the unexpected ----


def test_a_bug_is_one_line_that_asks_for_a_report(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("graphopt.compiler.compile_graph", broken)
    found = cli("compile", model, "-o", tmp_path / "m.gopt")
    assert found.code == 1
    assert "please report" in found.error
    assert "ZeroDivisionError: a bug" in found.error
    assert listing(tmp_path) == {}
    monkeypatch.setenv("GRAPHOPT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli("compile", model, "-o", tmp_path / "m.gopt")


def test_every_exit_code_of_an_error_class_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    used, stack = {0, 1, 130}, [GraphoptError]
    while stack:
        kind = stack.pop()
        used.add(kind.exit_code)
        stack.extend(kind.__subclasses__())
    assert documented == used


def test_an_interrupt_leaves_nothing(model: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a compile: exit code 130, no files."""
    wait = (
        "import time, graphopt.compiler as c, pathlib\n"
        "def slow(*a, **k):\n"
        f"    pathlib.Path({str(tmp_path / 'started')!r}).touch(); time.sleep(60)\n"
        "c.compile_graph = slow\n"
        "from graphopt.cli.main import run\nrun()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", wait, "compile", str(model), "-o", str(tmp_path / "m.gopt")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["started"]
