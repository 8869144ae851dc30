"""Ops of ai.onnx.ml beside onnxruntime: the ONNX suite has cases for four of them only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt.errors import ModelError
from tests.ops.oracle import assert_same, interpret

ML = "ai.onnx.ml"
ROWS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)


def same(name: str, x: Any, attrs: dict[str, Any], outputs: int = 1, **options: Any) -> None:
    assert_same(name, [x], attrs, outputs, domain=ML, **{"opset": 3, **options})


def normal(count: int, seed: int = 1) -> list[float]:
    drawn = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    return [float(v) for v in drawn]


# ---- features ----


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm: str) -> None:
    same("Normalizer", ROWS, {"norm": norm})
    same("Normalizer", np.array([[1, -2, 3], [0, 0, 0]], np.int64), {"norm": norm})


@pytest.mark.parametrize("count", [1, 3])
def test_scaler(count: int) -> None:
    attrs = {"offset": [1.0, 2.0, 3.0][:count], "scale": [2.0, 0.5, 0.1][:count]}
    same("Scaler", ROWS, attrs)
    same("Scaler", np.arange(6, dtype=np.int64).reshape(2, 3), attrs)


def test_imputer() -> None:
    x = np.array([[1, np.nan], [np.nan, 2]], np.float32)
    nan = float("nan")
    same("Imputer", x, {"imputed_value_floats": [7.0, 8.0], "replaced_value_float": nan})
    same("Imputer", x, {"imputed_value_floats": [7.0], "replaced_value_float": 2.0})
    whole = np.array([[1, -1], [-1, 2]], np.int64)
    same("Imputer", whole, {"imputed_value_int64s": [7], "replaced_value_int64": -1})


def test_category_mapper() -> None:
    attrs = {"cats_strings": ["a", "b"], "cats_int64s": [4, 5]}
    same("CategoryMapper", np.array(["a", "b", "z"], object), attrs)
    same("CategoryMapper", np.array([4, 5, 6]), {**attrs, "default_string": "none"})


def test_one_hot_encoder() -> None:
    same("OneHotEncoder", np.array([[1.0, 2.9], [3.0, 9.0]], np.float32), {"cats_int64s": [1, 2]})
    same("OneHotEncoder", np.array(["a", "q"], object), {"cats_strings": ["a", "b"]})
    with pytest.raises(ModelError, match="none of its categories"):
        interpret("OneHotEncoder", [np.array([1, 7])], {"cats_int64s": [1], "zeros": 0}, domain=ML)


def test_label_encoder() -> None:
    x = np.array([1, np.nan, 3], np.float32)
    attrs = {"keys_floats": [1.0, float("nan")], "values_strings": ["x", "y"]}
    same("LabelEncoder", x, attrs, opset=4)
    strings = np.array(["a", "b"], object)
    same("LabelEncoder", strings, {"keys_strings": ["a"], "values_floats": [2.5]}, opset=4)
    same("LabelEncoder", strings, {"keys_strings": ["b"], "values_int64s": [3]}, opset=4)


def test_feature_vectorizer() -> None:
    # The first operand is cut to two columns, the second filled up to four.
    attrs = {"inputdimensions": [2, 4]}
    assert_same("FeatureVectorizer", [ROWS, ROWS[:, :2].copy()], attrs, domain=ML, opset=3)


def test_array_feature_extractor() -> None:
    index = np.array([[0, 2]])
    assert_same("ArrayFeatureExtractor", [ROWS, index], {}, domain=ML, opset=3)
    assert_same("ArrayFeatureExtractor", [ROWS[0].copy(), index], {}, domain=ML, opset=3)


# ---- linear models and support vectors ----


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
@pytest.mark.parametrize("classes", [2, 3])
def test_linear_models(transform: str, classes: int) -> None:
    # A probit takes probabilities.
    x = np.abs(ROWS) * 0.05 if transform == "PROBIT" else ROWS
    weights = normal(3 * classes)
    if transform == "PROBIT":
        weights = [abs(w) for w in weights]
    attrs: dict[str, Any] = {
        "coefficients": weights,
        "intercepts": [0.1] * classes,
        "post_transform": transform,
    }
    labels = {"classlabels_ints": [10, 20, 30][:classes]}
    same("LinearClassifier", x, {**attrs, **labels}, 2)
    same("LinearRegressor", x, {**attrs, "targets": classes})


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_two_classes_of_one_score(transform: str) -> None:
    attrs: dict[str, Any] = {
        "coefficients": normal(3),
        "intercepts": [0.1],
        "post_transform": transform,
        "classlabels_strings": ["no", "yes"],
    }
    same("LinearClassifier", ROWS, attrs, 2)


def test_one_target_takes_the_logistic_too() -> None:
    # onnxruntime leaves a single target as it is; the specification has no such exception.
    attrs = {"coefficients": normal(3), "post_transform": "LOGISTIC"}
    (y,) = interpret("LinearRegressor", [ROWS], attrs, domain=ML)
    expected = 1 / (1 + np.exp(-ROWS @ np.array(normal(3), np.float32)))
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-5)


KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("per_class", [(2, 3), (2, 2, 3)])
@pytest.mark.parametrize("probable", [False, True])
def test_svm_classifier(kernel: str, per_class: tuple[int, ...], probable: bool) -> None:
    count, total = len(per_class), sum(per_class)
    pairs = count * (count - 1) // 2
    attrs: dict[str, Any] = {
        "kernel_type": kernel,
        "kernel_params": [0.4, 0.2, 2.0],
        "vectors_per_class": list(per_class),
        "support_vectors": normal(3 * total, 2),
        "coefficients": normal(total * (count - 1), 3),
        "rho": normal(pairs, 4),
        "classlabels_strings": ["a", "b", "c"][:count],
    }
    if probable:
        attrs["prob_a"] = [-abs(v) for v in normal(pairs, 5)]
        attrs["prob_b"] = normal(pairs, 6)
    # The iteration for the probabilities stops at an error of 0.005 over the number of classes.
    same("SVMClassifier", ROWS, attrs, 2, rtol=2e-3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(kernel: str, one_class: int) -> None:
    attrs: dict[str, Any] = {
        "kernel_type": kernel,
        "kernel_params": [0.4, 0.2, 2.0],
        "n_supports": 4,
        "support_vectors": normal(12, 2),
        "coefficients": normal(4, 3),
        "rho": [0.3],
        "one_class": one_class,
    }
    same("SVMRegressor", ROWS, attrs)


# ---- trees ----

BRANCHES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"]
FEATURES = np.random.default_rng(2).standard_normal((7, 4)).astype(np.float32)
FEATURES[2, 1] = np.nan
FEATURES[3] = np.nan


def forest(trees: int, depth: int, modes: list[str]) -> tuple[dict[str, Any], list[Any]]:
    """Attributes ``nodes_*`` of random trees, and the (tree, node) ids of their leaves."""
    rng = np.random.default_rng(trees + depth)
    rows: list[dict[str, Any]] = []
    leaves: list[tuple[int, int]] = []

    def grow(tree: int, depth: int, ids: list[int]) -> int:
        row: dict[str, Any] = {
            "treeids": tree, "nodeids": ids[0], "featureids": 0, "modes": "LEAF", "values": 0.0,
            "truenodeids": 0, "falsenodeids": 0, "missing_value_tracks_true": 0,
        }  # fmt: skip
        ids[0] += 1
        rows.append(row)
        if depth == 0:
            leaves.append((tree, row["nodeids"]))
            return int(row["nodeids"])
        row["modes"] = str(rng.choice(modes))
        row["values"] = float(np.float32(rng.standard_normal()))
        row["featureids"] = int(rng.integers(4))
        row["missing_value_tracks_true"] = int(rng.integers(2))
        row["truenodeids"] = grow(tree, depth - 1, ids)
        row["falsenodeids"] = grow(tree, int(rng.integers(depth)), ids)
        return int(row["nodeids"])

    for tree in range(trees):
        grow(tree, depth, [0])
    return {f"nodes_{key}": [row[key] for row in rows] for key in rows[0]}, leaves


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("double", [False, True])
def test_tree_regressor(aggregate: str, double: bool) -> None:
    nodes, leaves = forest(3, 3, BRANCHES)
    attrs: dict[str, Any] = {
        **nodes,
        "target_treeids": [tree for tree, _ in leaves],
        "target_nodeids": [node for _, node in leaves],
        # The first tree votes for both targets at once.
        "target_ids": [i % 2 for i in range(len(leaves))],
        "target_weights": normal(len(leaves)),
        "n_targets": 2,
        "aggregate_function": aggregate,
    }
    for key in ("treeids", "nodeids", "ids", "weights"):
        extra = {"ids": [1 - v for v in attrs["target_ids"]]}.get(key, attrs[f"target_{key}"])
        attrs[f"target_{key}"] = attrs[f"target_{key}"] + extra
    attrs["base_values"] = [0.5, -0.25]
    if double:
        for name in ("nodes_values", "target_weights", "base_values"):
            attrs[f"{name}_as_tensor"] = np.array(attrs.pop(name))
    same("TreeEnsembleRegressor", FEATURES.astype(np.float64) if double else FEATURES, attrs)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("base", [None, [0.25]])
def test_tree_classifier_of_two_classes(transform: str, positive: bool, base: Any) -> None:
    nodes, leaves = forest(3, 3, ["BRANCH_LEQ"])
    weights = normal(len(leaves))
    attrs: dict[str, Any] = {
        **nodes,
        "class_treeids": [tree for tree, _ in leaves],
        "class_nodeids": [node for _, node in leaves],
        "class_ids": [0] * len(leaves),
        "class_weights": [abs(w) * 0.3 if positive else w for w in weights],
        "classlabels_int64s": [10, 20],
        "post_transform": transform,
    }
    if base is not None:
        attrs["base_values"] = base
    same("TreeEnsembleClassifier", FEATURES, attrs, 2)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_tree_classifier_of_three_classes(transform: str) -> None:
    nodes, leaves = forest(4, 3, ["BRANCH_LEQ"])
    attrs = {
        **nodes,
        "class_treeids": [tree for tree, _ in leaves],
        "class_nodeids": [node for _, node in leaves],
        "class_ids": [i % 3 for i in range(len(leaves))],
        "class_weights": normal(len(leaves)),
        "classlabels_strings": ["x", "y", "z"],
        "base_values": [0.1, 0.2, 0.3],
        "post_transform": transform,
    }
    same("TreeEnsembleClassifier", FEATURES, attrs, 2)


def test_a_tree_of_one_leaf() -> None:
    attrs = {
        "nodes_treeids": [0], "nodes_nodeids": [0], "nodes_featureids": [0],
        "nodes_modes": ["LEAF"], "nodes_values": [0.0], "nodes_truenodeids": [0],
        "nodes_falsenodeids": [0], "target_treeids": [0], "target_nodeids": [0],
        "target_ids": [0], "target_weights": [1.5], "n_targets": 1,
    }  # fmt: skip
    same("TreeEnsembleRegressor", FEATURES, attrs)
