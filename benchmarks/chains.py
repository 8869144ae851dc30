"""Synthetic chains of known ideal: what ``optimize_scale.py`` grows to a hundred thousand nodes.

One block is 14 nodes: Conv, BatchNormalization, Relu, Identity, two Transposes that cancel, and a
Reshape to its operand's own shape, which eight nodes compute the way exporters write it (Shape, two
Gathers, Mul, two Unsqueezes, Concat). Nothing but ``Relu(Conv(x))`` is needed: 2 nodes a block.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

BLOCK_NODES = 14
IDEAL_NODES = 2
_CHANNELS, _SIDE = 4, 6


def chain(blocks: int, *, dynamic: bool = False, seed: int = 0) -> Any:
    """The ModelProto of that many blocks; the batch is a symbol when ``dynamic``."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    shape = ["N" if dynamic else 1, _CHANNELS, _SIDE, _SIDE]
    indices = {"zero": 0, "one": 1}
    constants = [
        *(numpy_helper.from_array(np.array(v, np.int64), name) for name, v in indices.items()),
        numpy_helper.from_array(np.array([0], np.int64), "first"),
        numpy_helper.from_array(np.array([_SIDE, _SIDE], np.int64), "sides"),
    ]
    nodes: list[Any] = []
    x = "x"
    for index in range(blocks):
        x = _block(f"b{index}", x, rng, nodes, constants)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_chain(nodes: int, file: Path) -> int:
    """Write the chain of at least ``nodes`` nodes; how many blocks it has."""
    blocks = -(-nodes // BLOCK_NODES)
    file.write_bytes(chain(blocks).SerializeToString())
    return blocks


def feed(seed: int = 1) -> dict[str, Any]:
    """An input of a chain."""
    shape = (1, _CHANNELS, _SIDE, _SIDE)
    return {"x": np.random.default_rng(seed).standard_normal(shape, np.float32)}


def _block(p: str, x: str, rng: Any, nodes: list[Any], constants: list[Any]) -> str:
    from onnx import helper, numpy_helper

    def weight(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(values.astype(np.float32), f"{p}.{name}"))
        return f"{p}.{name}"

    def node(op: str, *inputs: str, out: str, **attrs: Any) -> str:
        name = f"{p}.{out}"
        nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attrs))
        return name

    c = _CHANNELS
    # Weights keep the size of activations, so that the chain neither dies nor overflows.
    kernel = rng.standard_normal((c, c, 3, 3)) * np.sqrt(2 / (9 * c))
    conv = node("Conv", x, weight("w", kernel), weight("bias", rng.normal(0, 0.1, c)),
                out="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])  # fmt: skip
    statistics = {"scale": rng.uniform(0.9, 1.1, c), "shift": rng.normal(0.1, 0.1, c),
                  "mean": rng.normal(0, 0.1, c), "var": rng.uniform(0.8, 1.2, c)}  # fmt: skip
    norm = node("BatchNormalization", conv, *(weight(k, v) for k, v in statistics.items()),
                out="bn")  # fmt: skip
    same = node("Identity", node("Relu", norm, out="relu"), out="same")
    turned = node("Transpose", same, out="there", perm=[0, 2, 3, 1])
    back = node("Transpose", turned, out="back", perm=[0, 3, 1, 2])
    shape = node("Shape", back, out="shape")
    batch = node("Mul", node("Gather", shape, "zero", out="n"), "one", out="batch")
    channels = node("Gather", shape, "one", out="c")
    sizes = [node("Unsqueeze", v, "first", out=f"{o}1") for v, o in ((batch, "n"), (channels, "c"))]
    target = node("Concat", *sizes, "sides", out="sizes", axis=0)
    return node("Reshape", back, target, out="y")


def write_large(gigabytes: float, file: Path, *, width: int = 4096) -> int:
    """Write a chain of dense layers whose weights lie in ``file.data``; the bytes of both files.

    A layer is MatMul, a constant factor a column (which folds into the weights), Add and Relu. The
    weights are holes in the file but for their first rows: they take no disk.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nbytes = width * width * 4
    layers = max(1, round(gigabytes * 1e9 / nbytes))
    nodes, constants, x = [], [], "x"
    for index in range(layers):
        weight = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[width, width])
        weight.data_location = TensorProto.EXTERNAL
        entries = (("location", f"{file.name}.data"), ("offset", index * nbytes),
                   ("length", nbytes))  # fmt: skip
        for key, value in entries:
            weight.external_data.add(key=key, value=str(value))
        constants.append(weight)
        for name in ("scale", "bias"):
            row = rng.uniform(0.5, 1.5, width).astype(np.float32)
            constants.append(numpy_helper.from_array(row, f"{name}{index}"))
        steps = (("MatMul", f"w{index}"), ("Mul", f"scale{index}"), ("Add", f"bias{index}"),
                 ("Relu", ""))  # fmt: skip
        for op, operand in steps:
            out = f"{op.lower()}{index}"
            nodes.append(helper.make_node(op, [x, operand] if operand else [x], [out], name=out))
            x = out
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", width])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    with Path(f"{file}.data").open("wb") as data:
        data.truncate(layers * nbytes)
        for index in range(layers):
            data.seek(index * nbytes)
            data.write(rng.standard_normal(width).astype(np.float32).tobytes())
    return file.stat().st_size + layers * nbytes
