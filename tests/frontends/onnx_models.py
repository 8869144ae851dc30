"""Small ONNX models that between them use every part of the format that the frontend reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["all_models", "model_of"]

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model_of(graph: Any, opset: int = 18, **options: Any) -> Any:
    """A ModelProto of one opset; ``options`` go to make_model."""
    imports = [helper.make_opsetid("", opset), *options.pop("imports", [])]
    options.setdefault("ir_version", 10)
    return helper.make_model(graph, opset_imports=imports, **options)


def info(name: str, dtype: int = F32, shape: Any = None) -> Any:
    """A value of a tensor type."""
    return helper.make_tensor_value_info(name, dtype, shape)


def convolutional() -> Any:
    """Convolution, normalisation, pooling, a matrix product; weights large enough to be mapped."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "scale": np.ones(16, np.float32),
        "bias": np.zeros(16, np.float32),
        "mean": np.zeros(16, np.float32),
        "var": np.ones(16, np.float32),
        "fc": rng.standard_normal((16, 100)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"], "gap"),
        helper.make_node("Flatten", ["g"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "fc"], ["m"], "fc"),
        helper.make_node("Softmax", ["m"], ["y"], "softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes, "convolutional", [info("x", F32, ["N", 3, "H", "W"])], [info("y", F32, ["N", 100])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    model = model_of(graph, 17, producer_name="tests", doc_string="a model")
    helper.set_model_props(model, {"author": "nobody", "task": "none"})
    return model


def shapes() -> Any:
    """Shape arithmetic, attributes of every kind of list, old forms of Squeeze and Clip."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Clip", ["flat"], ["clipped"], min=0.0, max=6.0),
        helper.make_node("Slice", ["clipped"], ["cut"], starts=[0], ends=[4], axes=[1]),
        helper.make_node("Split", ["cut"], ["a", "b"], axis=1, split=[1, 3]),
        helper.make_node("ReduceSum", ["b"], ["sum"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["a", "sum"], ["y"]),
    ]
    initializers = [
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array([-1]), "minus"),
    ]
    graph = helper.make_graph(
        nodes, "shapes", [info("x", F32, ["batch", 2, 4])], [info("y", F32, None)], initializers
    )
    return model_of(graph, 8, ir_version=4)


def control() -> Any:
    """If with captures, and a Loop that grows what it carries."""
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["t"])], "then", [], [info("t")]
    )
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [info("e")])
    body = helper.make_graph(
        [
            helper.make_node("Concat", ["acc", "x"], ["acc2"], axis=0),
            helper.make_node("Identity", ["go"], ["go2"]),
            helper.make_node("ReduceMax", ["acc2"], ["top"], keepdims=0),
        ],
        "body",
        [info("i", I64, []), info("go", BOOL, []), info("acc", F32, None)],
        [info("go2", BOOL, []), info("acc2", F32, None), info("top", F32, [])],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["z"], "branch", then_branch=then, else_branch=other),
        helper.make_node("Loop", ["trips", "", "z"], ["grown", "tops"], "loop", body=body),
    ]
    graph = helper.make_graph(
        nodes, "control",
        [info("x", F32, [2]), info("flag", BOOL, []), info("trips", I64, [])],
        [info("grown", F32, [None]), info("tops", F32, [None])],
        [numpy_helper.from_array(np.array([1.0], np.float32), "one")],
    )  # fmt: skip
    return model_of(graph, 18)


def functions() -> Any:
    """Functions of the model that call each other, with attributes passed down, and a custom op."""
    scaled = helper.make_function(
        "local", "Scaled", ["a"], ["b"],
        [
            helper.make_node("Constant", [], ["k"]),
            helper.make_node("Mul", ["a", "k"], ["b"]),
        ],
        [helper.make_opsetid("", 18)], ["factor"],
    )  # fmt: skip
    reference = scaled.node[0].attribute.add(name="value_float", type=onnx.AttributeProto.FLOAT)
    reference.ref_attr_name = "factor"
    twice = helper.make_function(
        "local", "Twice", ["a"], ["c"],
        [
            helper.make_node("Scaled", ["a"], ["b"], "inner", domain="local", factor=2.0),
            helper.make_node("Scaled", ["b"], ["c"], domain="local", factor=3.0),
        ],
        [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Twice", ["x"], ["t"], "call", domain="local"),
        helper.make_node("Gizmo", ["t"], ["u"], "custom", domain="vendor", level=3),
        helper.make_node("Selu", ["u"], ["y"], "selu"),
    ]
    graph = helper.make_graph(
        nodes, "functions", [info("x", F32, ["N", 4])], [info("y", F32, ["N", 4])],
        value_info=[info("u", F32, ["N", 4])],
    )  # fmt: skip
    imports = [helper.make_opsetid("local", 1), helper.make_opsetid("vendor", 3)]
    return model_of(graph, 18, imports=imports, functions=[scaled, twice])


def tensors() -> Any:
    """Initializers in every form: typed fields, strings, sparse, packed, listed as input."""
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([5.0, 7.0], np.float32), "sp"),
        numpy_helper.from_array(np.array([1, 3])), [4],
    )  # fmt: skip
    initializers = [
        helper.make_tensor("typed", F32, [4], [1.0, 2.0, 3.0, 4.0]),
        helper.make_tensor("half", TensorProto.FLOAT16, [4], np.arange(4, dtype=np.float16)),
        helper.make_tensor("nibbles", TensorProto.INT4, [5], [-8, -1, 0, 1, 7]),
        helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"bc"]),
    ]
    nodes = [
        helper.make_node("Add", ["x", "typed"], ["p"]),
        helper.make_node("Add", ["p", "sp"], ["q"]),
        helper.make_node("Cast", ["half"], ["h"], to=F32),
        helper.make_node("Add", ["q", "h"], ["y"]),
        helper.make_node("Identity", ["words"], ["w"]),
        helper.make_node("Identity", ["nibbles"], ["n"]),
    ]
    graph = helper.make_graph(
        nodes, "tensors", [info("x", F32, [4]), info("typed", F32, [4])],
        [info("y", F32, [4]), info("w", TensorProto.STRING, [2]),
         info("n", TensorProto.INT4, [5])],
        initializers,
    )  # fmt: skip
    graph.sparse_initializer.append(sparse)
    return model_of(graph, 21)


def all_models() -> dict[str, Any]:
    """The models by name."""
    made = (convolutional(), shapes(), control(), functions(), tensors())
    return {model.graph.name: model for model in made}
