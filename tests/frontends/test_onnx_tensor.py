"""Tensors of every element type, wherever their bytes lie; impossible ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphopt.errors import ModelError
from graphopt.frontends.onnx import from_onnx
from graphopt.frontends.onnx_tensor import TensorReader
from graphopt.ir import DType
from tests.frontends.onnx_models import info, model_of

READER = TensorReader("test.onnx")
NUMBERS = [d for d in DType if d is not DType.STRING]


def sample(dtype: DType, count: int) -> np.ndarray[Any, Any]:
    """Some values of a type, its extremes among them."""
    if dtype is DType.BOOL:
        return np.arange(count) % 3 == 0
    if dtype.is_complex:
        return (np.arange(count) - 1j * np.arange(count)).astype(dtype.numpy)
    if dtype.is_integer:
        limits = ml_dtypes.iinfo(dtype.numpy)
        span = int(limits.max) - int(limits.min)
        values = [int(limits.min) + span * k // max(count - 1, 1) for k in range(count)]
        return np.array(values, object).astype(dtype.numpy)
    return np.linspace(0.5 if dtype is DType.F8E8M0 else -3, 3, count).astype(dtype.numpy)


@pytest.mark.parametrize("count", [0, 1, 7, 9000])
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_raw_data(dtype: DType, count: int) -> None:
    array = sample(dtype, count)
    constant = READER.constant(numpy_helper.from_array(array, "t"))
    assert constant.type.dtype is dtype
    np.testing.assert_array_equal(constant.array, array)
    assert not constant.array.flags.writeable


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_typed_fields(dtype: DType) -> None:
    array = sample(dtype, 6).reshape(2, 3)
    proto = helper.make_tensor("t", int(dtype), [2, 3], array.ravel())
    assert not proto.HasField("raw_data")
    np.testing.assert_array_equal(READER.constant(proto).array, array)


def test_strings_keep_every_byte() -> None:
    proto = helper.make_tensor("t", TensorProto.STRING, [2], ["ä".encode(), b"\xff"])
    array = READER.constant(proto).array
    assert array[0] == "ä"
    assert array[1].encode("utf-8", "surrogateescape") == b"\xff"


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_tensors_become_dense(linear: bool) -> None:
    dense = np.zeros((3, 4), np.float32)
    dense[0, 1], dense[2, 3] = 5, 7
    places = np.flatnonzero(dense) if linear else np.argwhere(dense)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(dense[dense != 0], "s"), numpy_helper.from_array(places), [3, 4]
    )
    np.testing.assert_array_equal(READER.sparse(sparse).array, dense)


def broken(**fields: Any) -> Any:
    proto = TensorProto(name="t", data_type=TensorProto.FLOAT)
    for key, value in fields.items():
        field = getattr(proto, key)
        if hasattr(field, "extend"):
            field.extend(value)
        else:
            setattr(proto, key, value)
    return proto


@pytest.mark.parametrize(("proto", "message"), [
    (broken(dims=[3], raw_data=b"1234"), "takes 12 bytes, but it has 4"),
    (broken(dims=[2**40], raw_data=b"1234"), "takes 4398046511104 bytes"),
    (broken(dims=[2**62, 2**62], raw_data=b""), "too large"),
    (broken(dims=[0, 2**62], raw_data=b""), "too large"),
    (broken(dims=[-1], raw_data=b"1234"), "negative size"),
    (broken(dims=[1] * 65, raw_data=b"1234"), "65 axes"),
    (broken(dims=[2], float_data=[1.0]), "needs 2 stored numbers, but it has 1"),
    (broken(dims=[2]), "needs 2 stored numbers, but it has 0"),
    (broken(dims=[1], data_type=99, raw_data=b"1"), "element type 99 does not exist"),
    (broken(dims=[1], data_type=0), "element type 0 does not exist"),
    (broken(dims=[2], data_type=8, string_data=[b"a"]), "does not fit its 1 strings"),
    (broken(dims=[1], data_type=8, raw_data=b"a"), "does not fit its 0 strings"),
    (broken(dims=[1], data_location=1), "no location is given"),
])  # fmt: skip
def test_impossible_tensors_are_refused(proto: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        READER.constant(proto)
    assert "test.onnx" in str(caught.value) and "'t'" in str(caught.value)


@pytest.mark.parametrize(("dims", "places", "message"), [
    ([2**20, 2**20], [0, 1], "more than graphopt accepts"),
    ([4], [0, 4], "out of range"),
    ([4], [-1, 0], "out of range"),
    ([4], [[0, 1], [1, 2]], "cannot have indices of shape"),
])  # fmt: skip
def test_impossible_sparse_tensors_are_refused(
    dims: list[int], places: list[Any], message: str
) -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array(places))
    with pytest.raises(ModelError, match=message):
        READER.sparse(onnx.SparseTensorProto(values=values, indices=indices, dims=dims))


def weighted(count: int = 5000, dtype: type = np.float32) -> Any:
    """A model that adds a weight to its input."""
    weight = np.arange(count).astype(dtype)
    code = helper.np_dtype_to_tensor_dtype(weight.dtype)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [info("x", code, [count])],
        [info("y", code, [count])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return model_of(graph)


def test_weights_in_a_file_are_not_read_until_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(weighted().SerializeToString())
    [weight] = from_onnx(path).constants.values()
    assert weight.constant is not None
    base: Any = weight.constant.array if weight.constant.loaded else None
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert not weight.constant.loaded or base is not None
    np.testing.assert_array_equal(weight.constant.array, np.arange(5000, dtype=np.float32))


@pytest.mark.parametrize("padding", range(8))
def test_weights_at_any_alignment(tmp_path: Path, padding: int) -> None:
    model = weighted(dtype=np.float64)
    model.producer_name = "p" * (padding + 1)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (path, path.read_bytes(), model):
        array = from_onnx(source).constants["w"].constant.array
        assert array.flags.aligned
        np.testing.assert_array_equal(array, np.arange(5000, dtype=np.float64))


def external(tmp_path: Path, **entries: str) -> Path:
    """A model whose weight lies in another file; ``entries`` overwrite where."""
    model = weighted()
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    path = tmp_path / "m.onnx"
    model = onnx.load(path, load_external_data=False)
    [tensor] = model.graph.initializer
    for key, value in entries.items():
        found = [e for e in tensor.external_data if e.key == key]
        if found:
            found[0].value = value
        else:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_is_mapped(tmp_path: Path) -> None:
    constant = from_onnx(external(tmp_path)).constants["w"].constant
    assert constant is not None and constant.loaded
    base: Any = constant.array
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert base is not None, "the array is a copy"
    np.testing.assert_array_equal(constant.array, np.arange(5000, dtype=np.float32))


@pytest.mark.parametrize(("entries", "message"), [
    ({"location": "../w.bin"}, "outside the model's folder"),
    ({"location": "/etc/passwd"}, "outside the model's folder"),
    ({"location": "a/../../w.bin"}, "outside the model's folder"),
    ({"location": "none.bin"}, "does not exist"),
    ({"location": "."}, "does not exist"),
    ({"location": "w.bin\0"}, "outside the model's folder"),
    ({"location": "w" * 300}, "cannot be read"),
    ({"offset": "17000"}, "needs bytes 17000 to 37000"),
    ({"offset": "-4"}, "needs bytes -4"),
    ({"offset": "x"}, "must be numbers"),
    ({"length": "8"}, "takes 20000 bytes, but it has 8"),
    ({"length": str(2**70)}, "needs bytes"),
])  # fmt: skip
def test_external_data_that_is_not_there(
    tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        from_onnx(external(tmp_path, **entries))
    assert "m.onnx" in str(caught.value) and "'w'" in str(caught.value)


def test_external_data_must_not_leave_through_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    path = external(inside)
    (inside / "w.bin").rename(tmp_path / "w.bin")
    (inside / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        from_onnx(path)


def test_a_linked_model_finds_its_data_beside_the_target(tmp_path: Path) -> None:
    store = tmp_path / "blobs"
    store.mkdir()
    external(store).rename(store / "1234")
    (store / "w.bin").rename(store / "5678")
    view = tmp_path / "view"
    view.mkdir()
    (view / "m.onnx").symlink_to(store / "1234")
    (view / "w.bin").symlink_to(store / "5678")
    np.testing.assert_array_equal(
        from_onnx(view / "m.onnx").constants["w"].constant.array,  # type: ignore[union-attr]
        np.arange(5000, dtype=np.float32),
    )


def test_external_data_takes_a_folder(tmp_path: Path) -> None:
    data = external(tmp_path).read_bytes()
    with pytest.raises(ModelError, match="pass its path"):
        from_onnx(data)


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read: No such file"):
        from_onnx(tmp_path / "none.onnx")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(ModelError, match=r"empty\.onnx: is empty"):
        from_onnx(tmp_path / "empty.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        from_onnx(tmp_path)
    (tmp_path / "text.onnx").write_text("hello, this is no model")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        from_onnx(tmp_path / "text.onnx")
