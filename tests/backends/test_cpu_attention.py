"""Attention through the CPU pipe: as one op, and spelled out as exporters do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.pipe import Net, check, kernels


def _heads(net: Net, name: str, heads: int = 3, length: int = 6, size: int = 8) -> str:
    return net.input(name, (2, heads, length, size))


def _spelled_out(
    net: Net, q: str, k: str, v: str, mask: str | None = None, scale: str = "after"
) -> str:
    kt = net("Transpose", k, perm=[0, 1, 3, 2])
    factor = net.const(np.float32(8**-0.5))
    if scale == "both":
        root = net.const(np.float32(8**-0.25))
        q, kt = net("Mul", q, root), net("Mul", kt, root)
    scores = net("MatMul", q, kt)
    if scale == "after":
        scores = net("Mul", scores, factor)
    if scale == "over":
        scores = net("Div", scores, net.const(np.float32(8**0.5)))
    if mask is not None:
        scores = net("Add", scores, mask)
    result: str = net("MatMul", net("Softmax", scores, axis=-1), v)
    return result


@pytest.mark.parametrize("scale", ["after", "over", "both", "none"])
def test_spelled_out(scale: str) -> None:
    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    artifact = check(net.output(_spelled_out(net, q, k, v, scale=scale)))
    assert "attention" in kernels(artifact)


@pytest.mark.parametrize(
    "shape", [(2, 1, 1, 6), (1, 1, 6, 6), (2, 3, 6, 6), (6, 6), (1, 6), (2, 1, 6, 6)], ids=str
)
def test_masks(shape: tuple[int, ...]) -> None:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        keep = rng.random(shape) < 0.7
        keep[..., 0] = True  # a row without any key is NaN everywhere
        return np.where(keep, 0, -1e9).astype(np.float32)

    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    mask = net.input("m", shape, make=make)
    artifact = check(net.output(_spelled_out(net, q, k, v, mask)))
    assert "attention" in kernels(artifact)


def test_rows_without_any_key() -> None:
    """-inf everywhere is NaN, as the softmax of nothing is; a finite floor averages."""
    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    for name, floor in (("m", -np.inf), ("n", np.finfo(np.float32).min)):

        def make(rng: Any, shape: tuple[int, ...], floor: float = float(floor)) -> Any:
            mask = np.zeros(shape, np.float32)
            mask[:, :, 2] = floor
            return mask

        net.output(_spelled_out(net, q, k, v, net.input(name, (1, 1, 6, 6), make=make)))
    check(net)


def test_free_batch_and_length() -> None:
    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    mask = net.input("m", (2, 1, 1, 6))
    net.output(_spelled_out(net, q, k, v, mask))
    symbols = {**dict.fromkeys("qkv", ("N", 3, "S", 8)), "m": ("N", 1, 1, "S")}
    sizes = [(1, 1), (3, 17), (1, 130)]
    more = [{**dict.fromkeys("qkv", (n, 3, s, 8)), "m": (n, 1, 1, s)} for n, s in sizes]
    check(net, symbols, more)


def test_queries_and_keys_of_different_lengths() -> None:
    net = Net()
    q, k, v = _heads(net, "q", length=1), _heads(net, "k", length=9), _heads(net, "v", length=9)
    check(net.output(_spelled_out(net, q, k, v)))


def test_values_of_another_size_and_single_heads() -> None:
    net = Net()
    q, k = (_heads(net, name, heads=1) for name in "qk")
    check(net.output(_spelled_out(net, q, k, _heads(net, "v", heads=1, size=5))))


def test_products_by_einsum() -> None:
    """Heads stand behind the length and are never moved."""
    net = Net()
    q, k, v = (net.input(name, (2, 6, 3, 8)) for name in "qkv")
    scores = net("Einsum", q, k, equation="bqhd,bkhd->bhqk")
    scores = net("Mul", scores, net.const(np.float32(8**-0.5)))
    y = net("Einsum", net("Softmax", scores, axis=-1), v, equation="bhqk,bkhd->bqhd")
    symbols = dict.fromkeys("qkv", ("N", "S", 3, 8))
    more = [dict.fromkeys("qkv", (1, 20, 3, 8))]
    found = kernels(check(net.output(y), symbols, more))
    assert "attention" in found and "object" not in found


@pytest.mark.parametrize("low", [-np.inf, -1e9])
@pytest.mark.parametrize("shape", [(2, 1, 1, 6), (1, 3, 6, 6), (6, 6)], ids=str)
def test_masks_that_choose(low: float, shape: tuple[int, ...]) -> None:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        keep = rng.random(shape) < 0.7
        keep[..., 0] = True
        return keep

    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    keep = net.input("m", shape, bool, make)
    masked = net("Where", keep, scores, net.const(np.float32(low)))
    net.output(net("MatMul", net("Softmax", masked), v))
    assert "attention" in kernels(check(net))


def test_rows_without_any_key_that_average() -> None:
    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    drop = net.input("m", (1, 1, 6, 1), bool, lambda rng, shape: np.ones(shape, bool))
    masked = net("Where", drop, net.const(np.float32(-1e4)), scores)
    net.output(net("MatMul", net("Softmax", masked), v))
    assert "attention" in kernels(check(net))


@pytest.mark.parametrize("low", [-np.inf, float(np.finfo(np.float32).min)])
def test_causal_masks_are_not_read(low: float) -> None:
    """A triangle that is constant, or made from positions, becomes an attribute."""
    net = Net()
    q, k, v = (_heads(net, name, length=50) for name in "qkv")
    triangle = net.const(np.where(np.tri(50, dtype=bool), 0, low).astype(np.float32))
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    net.output(net("MatMul", net("Softmax", net("Add", scores, triangle)), v))
    plan = check(net).json("plan")
    step = next(s for s in plan["steps"] if s.get("kernel") == "attention")
    assert step["attrs"]["causal"] == 1 and len(step["inputs"]) == 3


def test_scores_with_a_cap() -> None:
    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    scores = net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2]))
    cap = net.const(np.float32(2))
    scores = net("Mul", net("Tanh", net("Div", scores, cap)), cap)
    net.output(net("MatMul", net("Softmax", scores), v))
    assert "attention" in kernels(check(net))


def test_one_projection_is_read_in_three_places() -> None:
    """Queries, keys and values of one product, split in the ways of several exporters."""
    for how in ("stacked", "split", "interleaved"):
        net = Net()
        x = net.input("x", (2, 6, 24))
        y = net("Add", net("MatMul", x, net.weight(24, 72, scale=0.2)), net.weight(72))
        heads, order = net.const([0, 0, 3, 8]), [0, 2, 1, 3]
        if how == "stacked":
            y = net(
                "Transpose", net("Reshape", y, net.const([0, 0, 3, 3, 8])), perm=[2, 0, 3, 1, 4]
            )
            parts = [net("Gather", y, net.const(np.int64(i)), axis=0) for i in range(3)]
        elif how == "split":
            parts = net("Split", y, net.const([24, 24, 24]), axis=2, outputs=3)
            parts = [net("Transpose", net("Reshape", p, heads), perm=order) for p in parts]
        else:
            y = net("Reshape", y, net.const([0, 0, 3, 24]))
            parts = net("Split", y, net.const([8, 8, 8]), axis=3, outputs=3)
            parts = [net("Transpose", p, perm=order) for p in parts]
        z = net("Transpose", _spelled_out(net, *parts), perm=order)
        net.output(net("Reshape", z, net.const([0, 0, -1])))
        found = kernels(check(net, {"x": ("N", "T", 24)}, [{"x": (1, 40, 24)}]))
        assert [kind for kind in found if kind not in ("view", "shape")] == ["gemm", "attention"]


@pytest.mark.parametrize("lengths_first", [False, True])
def test_batch_and_heads_merged(lengths_first: bool) -> None:
    """Products of three axes; with the length first, as torch's own module has it."""
    net = Net()
    x = net.input("x", (6, 1, 24) if lengths_first else (2, 6, 24))

    def heads() -> str:
        y = net("Add", net("MatMul", x, net.weight(24, 24, scale=0.2)), net.weight(24))
        if lengths_first:
            return str(net("Transpose", net("Reshape", y, net.const([6, 3, 8])), perm=[1, 0, 2]))
        y = net("Transpose", net("Reshape", y, net.const([0, 0, 3, 8])), perm=[0, 2, 1, 3])
        return str(net("Reshape", y, net.const([6, 6, 8])))

    q, k, v = heads(), heads(), heads()
    weights = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = net("MatMul", weights, v)
    if lengths_first:
        y = net("Transpose", y, perm=[1, 0, 2])
    else:
        y = net("Transpose", net("Reshape", y, net.const([2, 3, 6, 8])), perm=[0, 2, 1, 3])
    net.output(net("Reshape", y, net.const([6, 1, 24] if lengths_first else [2, 6, 24])))
    found = kernels(check(net))
    assert found.count("attention") == 1 and "object" not in found


def test_scores_that_others_read_stay() -> None:
    net = Net()
    q, k, v = (_heads(net, name) for name in "qkv")
    weights = net("Softmax", net("MatMul", q, net("Transpose", k, perm=[0, 1, 3, 2])))
    check(net.output(net("MatMul", weights, v), weights))


def test_a_whole_block() -> None:
    """Projections, heads split and merged, residual sum, norm: a transformer's first half."""
    net = Net()
    x = net.input("x", (2, 6, 24))

    def split(name: str) -> str:
        y = net("Add", net("MatMul", x, net.weight(24, 24, scale=0.2)), net.weight(24))
        y = net("Reshape", y, net.const([0, 0, 3, 8]))
        result: str = net("Transpose", y, perm=[0, 2, 1, 3])
        return result

    y = _spelled_out(net, split("q"), split("k"), split("v"))
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.const([0, 0, 24]))
    y = net("Add", net("MatMul", y, net.weight(24, 24, scale=0.2)), x)
    net.output(net("LayerNormalization", y, net.weight(24), net.weight(24)))
    artifact = check(net, {"x": ("N", "T", 24)}, [{"x": (1, 1, 24)}, {"x": (3, 50, 24)}])
    assert "attention" in kernels(artifact)


# ---- ONNX's own op ----


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("keys", [3, 1], ids=["heads", "one key head"])
def test_the_op(causal: int, keys: int) -> None:
    net = Net(opset=23)
    q = _heads(net, "q")
    k, v = (_heads(net, name, heads=keys) for name in "kv")
    artifact = check(net.output(net("Attention", q, k, v, is_causal=causal)))
    assert "attention" in kernels(artifact)


@pytest.mark.parametrize("attrs", [{"scale": 0.3}, {"softcap": 2.0}], ids=str)
def test_attributes_of_the_op(attrs: dict[str, Any]) -> None:
    net = Net(opset=23)
    q, k, v = (_heads(net, name) for name in "qkv")
    check(net.output(net("Attention", q, k, v, **attrs)))


@pytest.mark.parametrize("kind", [bool, np.float32])
def test_mask_of_the_op(kind: Any) -> None:
    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        mask = rng.random(shape) < 0.7
        mask[..., 0] = True
        return mask if kind is bool else rng.standard_normal(shape).astype(np.float32)

    net = Net(opset=23)
    q, k, v = (_heads(net, name) for name in "qkv")
    mask = net.input("m", (6, 6), kind, make)
    check(net.output(net("Attention", q, k, v, mask)))


def test_the_op_on_three_axes() -> None:
    net = Net(opset=23)
    q, k, v = (net.input(name, (2, 6, 24)) for name in "qkv")
    y = net("Attention", q, k, v, q_num_heads=3, kv_num_heads=3)
    symbols = dict.fromkeys("qkv", ("N", "T", 24))
    check(net.output(y), symbols, [dict.fromkeys("qkv", (1, 11, 24))])


@pytest.mark.parametrize("causal", [0, 1])
def test_the_op_with_a_cache(causal: int) -> None:
    net = Net(opset=23)
    q = _heads(net, "q", heads=6, length=2)
    k, v = (_heads(net, name, length=2) for name in "kv")
    past = [_heads(net, name, length=5) for name in ("pk", "pv")]
    found = net("Attention", q, k, v, "", *past, outputs=3, is_causal=causal)
    assert "attention" in kernels(check(net.output(*found)))


def test_one_step_behind_a_cache_of_any_length() -> None:
    net = Net(opset=23)
    q, k, v = (net.input(name, (2, 1, 24)) for name in "qkv")
    past = [_heads(net, name, length=5) for name in ("pk", "pv")]
    attrs = {"q_num_heads": 3, "kv_num_heads": 3, "is_causal": 1}
    net.output(*net("Attention", q, k, v, "", *past, outputs=3, **attrs))
    symbols = {
        **dict.fromkeys("qkv", ("N", 1, 24)),
        **dict.fromkeys(("pk", "pv"), ("N", 3, "P", 8)),
    }
    sizes = {**dict.fromkeys("qkv", (1, 1, 24)), **dict.fromkeys(("pk", "pv"), (1, 3, 70, 8))}
    assert "attention" in kernels(check(net, symbols, [sizes]))


def test_keys_that_the_op_gives_back() -> None:
    net = Net(opset=23)
    q, k, v = (net.input(name, (2, 6, 24)) for name in "qkv")
    found = net("Attention", q, k, v, q_num_heads=3, kv_num_heads=3, outputs=3)
    assert "attention" in kernels(check(net.output(*found)))
