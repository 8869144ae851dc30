"""Ensembles of decision trees, domain ai.onnx.ml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.constant import Constant
from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.ml_features import ML
from graphopt.ops.ml_linear import class_labels, label_type, named, post_transform
from graphopt.ops.precision import Array, narrow
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__ = ["Forest", "forest_of"]

_MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")
_LEAF = -1


@dataclass(frozen=True, slots=True)
class Forest:
    """All nodes of all trees in one table; a leaf is its own child.

    ``votes[node]`` are the weights [targets] of a leaf, ``voted`` which of them it has.
    """

    feature: Array
    mode: Array
    split: Array
    missing: Array
    true: Array
    false: Array
    roots: Array
    votes: Array
    voted: Array
    members: dict[int, Array] = dataclasses.field(default_factory=dict)

    def leaves(self, x: Array) -> Array:
        """The leaf [N, trees] that every row reaches in every tree."""
        at = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        rows = np.arange(len(x))[:, None]
        while True:
            after = np.where(
                self._branch(x[rows, self.feature[at]], at), self.true[at], self.false[at]
            )
            if np.array_equal(after, at):
                return at
            at = after

    def _branch(self, value: Array, at: Array) -> Array:
        mode, split = self.mode[at], self.split[at]
        tests = [value <= split, value < split, value >= split, value > split]
        tests += [value == split, value != split]
        taken = np.select([mode == i for i in range(len(tests))], tests, False)
        for node, members in self.members.items():
            here = at == node
            taken[here] = np.isin(value[here], members)
        return taken | (np.isnan(value) & self.missing[at])

    def total(self, x: Array, how: str) -> tuple[Array, Array]:
        """Aggregated votes [N, targets] in the type of the votes, and which targets got any."""
        at = self.leaves(x)
        shape = (len(x), self.votes.shape[1])
        result, seen = np.zeros(shape, dtype=self.votes.dtype), np.zeros(shape, dtype=bool)
        for tree in range(at.shape[1]):
            vote, has = self.votes[at[:, tree]], self.voted[at[:, tree]]
            if how in ("SUM", "AVERAGE"):
                result += vote
            elif how in ("MIN", "MAX"):
                better = vote < result if how == "MIN" else vote > result
                result = np.where(has & (better | ~seen), vote, result)
            else:
                raise ValueError(f"aggregate_function is '{how}'")
            seen |= has
        if how == "AVERAGE":
            result = result / result.dtype.type(at.shape[1])
        return result, seen


def _numbers(ctx: EvalContext, name: str) -> Array | None:
    """A float attribute or its ``_as_tensor`` form, None when neither is given."""
    tensor = ctx.attr(f"{name}_as_tensor")
    if isinstance(tensor, Constant):
        return tensor.array.ravel()
    floats = ctx.attr(name)
    return None if floats is None else np.array(floats, dtype=np.float32)


def forest_of(ctx: EvalContext, prefix: str, targets: int) -> Forest:
    """The trees of a TreeEnsembleClassifier (``class``) or TreeEnsembleRegressor (``target``)."""
    modes = ctx.attr("nodes_modes")
    trees, ids = ctx.attr("nodes_treeids"), ctx.attr("nodes_nodeids")
    place = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
    count = len(modes)
    names = {f"BRANCH_{name}": i for i, name in enumerate(_MODES[:6])}
    mode = np.array([names.get(m, _LEAF) for m in modes])
    own = np.arange(count)

    def children(name: str) -> Array:
        found = [place.get(key, 0) for key in zip(trees, ctx.attr(name), strict=True)]
        return np.where(mode == _LEAF, own, np.array(found, dtype=np.int64))

    split = _numbers(ctx, "nodes_values")
    weights = _numbers(ctx, f"{prefix}_weights")
    kind = np.float64 if weights is not None and weights.dtype == np.float64 else np.float32
    votes = np.zeros((count, targets), dtype=kind)
    voted = np.zeros((count, targets), dtype=bool)
    keys = zip(ctx.attr(f"{prefix}_treeids"), ctx.attr(f"{prefix}_nodeids"), strict=True)
    leaf = np.array([place[key] for key in keys], dtype=np.int64)
    target = np.array(ctx.attr(f"{prefix}_ids"), dtype=np.int64)
    np.add.at(votes, (leaf, target), () if weights is None else weights)
    voted[leaf, target] = True
    missing = ctx.attr("nodes_missing_value_tracks_true")
    true, false = children("nodes_truenodeids"), children("nodes_falsenodeids")
    # The root of a tree is the node that is nobody's child; the first listed one, in general.
    roots = [trees.index(tree) for tree in dict.fromkeys(trees)]
    return Forest(
        feature=np.where(mode == _LEAF, 0, np.array(ctx.attr("nodes_featureids"))),
        mode=mode,
        split=np.zeros(count) if split is None else split.astype(np.float64),
        missing=np.array(missing, dtype=bool) if missing else np.zeros(count, dtype=bool),
        true=true,
        false=false,
        roots=np.array(roots, dtype=np.int64),
        votes=votes,
        voted=voted,
    )


def _wide(x: Array) -> Array:
    """Rows to compare in f64: f32 features and splits both convert exactly."""
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    return (rows if rows.dtype.kind == "f" else rows.astype(np.float32)).astype(np.float64)


def _rows(ctx: InferContext) -> Dim:
    shape = ctx.shape(0)
    if shape is None:
        return ctx.fresh("rows")
    return shape[0] if len(shape) == 2 else 1


# ---- TreeEnsembleRegressor ----


def _infer_regressor(ctx: InferContext) -> Type:
    return TensorType(DType.F32, (_rows(ctx), ctx.attr("n_targets") or 1))


def _evaluate_regressor(ctx: EvalContext, x: Array) -> Array:
    forest = forest_of(ctx, "target", ctx.attr("n_targets") or 1)
    scores, _ = forest.total(_wide(x), ctx.attr("aggregate_function"))
    base = _numbers(ctx, "base_values")
    if base is not None:
        scores = scores + base.astype(scores.dtype)
    return narrow(post_transform(ctx.attr("post_transform"), scores), np.dtype(np.float32))


# ---- TreeEnsembleClassifier ----


def _infer_classifier(ctx: InferContext) -> tuple[Type, Type]:
    rows = _rows(ctx)
    count = len(class_labels(ctx, "classlabels_int64s"))
    kind = label_type(ctx, "classlabels_int64s")
    return TensorType(kind, (rows,)), TensorType(DType.F32, (rows, max(count, 2)))


def _evaluate_classifier(ctx: EvalContext, x: Array) -> tuple[Array, Array]:
    labels = class_labels(ctx, "classlabels_int64s")
    ids = ctx.attr("class_ids")
    count = max(len(labels), max(ids, default=0) + 1)
    forest = forest_of(ctx, "class", count)
    scores, _ = forest.total(_wide(x), "SUM")
    base = _numbers(ctx, "base_values")
    transform = ctx.attr("post_transform")
    if count > 2 or (count == 2 and len(set(ids)) == 2):
        if base is not None:
            scores = scores + base.astype(scores.dtype)
        best = named(np.argmax(scores, axis=1), labels)
        return best, post_transform(transform, scores).astype(np.float32)
    return _binary(ctx, forest, scores, base)


def _binary(
    ctx: EvalContext, forest: Forest, scores: Array, base: Array | None
) -> tuple[Array, Array]:
    """Two classes that share one score: above the threshold speaks for the second.

    The threshold is 1/2 where no weight is negative, as votes are probabilities then, else 0.
    """
    labels, used = class_labels(ctx, "classlabels_int64s"), ctx.attr("class_ids")[0]
    score = scores[:, used]
    if base is not None:
        score = score + score.dtype.type(base[used if len(base) > used else -1])
    likely = bool((forest.votes >= 0).all())
    second = score > (0.5 if likely else 0)
    strings = bool(labels) and isinstance(labels[0], str | bytes)
    pair = labels if len(labels) == 2 else (("0", "1") if strings else (0, 1))
    transform = ctx.attr("post_transform")
    first = -score
    if used == 1:
        first = np.zeros_like(score)  # the votes name the second class: the first has none
    elif likely and transform == "NONE":
        first = 1 - score
    both = post_transform(transform, np.stack([first, score], axis=1))
    return named(second.astype(np.int64), pair), both.astype(np.float32)


# ---- TreeEnsemble ----


def _infer_ensemble(ctx: InferContext) -> Type:
    return TensorType(ctx.dtype(0), (_rows(ctx), ctx.attr("n_targets") or 1))


def _member_sets(mode: Array, values: Array | None) -> dict[int, Array]:
    """The sets that are listed, NaN after each, in the order of the nodes that test them."""
    nodes = np.flatnonzero(mode == _MODES.index("MEMBER"))
    if values is None:
        if len(nodes):
            raise ValueError("nodes that test membership need membership_values")
        return {}
    stops = np.flatnonzero(np.isnan(values))
    if len(stops) < len(nodes):
        raise ValueError(f"membership_values has {len(stops)} sets for {len(nodes)} nodes")
    starts = [0, *(stops + 1)]
    return {int(n): values[starts[i] : stops[i]] for i, n in enumerate(nodes)}


def _evaluate_ensemble(ctx: EvalContext, x: Array) -> Array:
    mode = ctx.attr("nodes_modes").array.ravel().astype(np.int64)
    inner = len(mode)
    weights = ctx.attr("leaf_weights").array.ravel()
    targets, leaves = ctx.attr("n_targets") or 1, len(weights)
    members = ctx.attr("membership_values")
    own = np.arange(inner, inner + leaves)

    def children(side: str) -> Array:
        to_leaf = np.array(ctx.attr(f"nodes_{side}leafs"), dtype=bool)
        index = np.array(ctx.attr(f"nodes_{side}nodeids"), dtype=np.int64)
        return np.concatenate([np.where(to_leaf, index + inner, index), own])

    kind = np.float64 if weights.dtype == np.float64 else np.float32
    votes = np.zeros((inner + leaves, targets), dtype=kind)
    voted = np.zeros((inner + leaves, targets), dtype=bool)
    votes[own, list(ctx.attr("leaf_targetids"))] = weights
    voted[own, list(ctx.attr("leaf_targetids"))] = True
    missing = np.zeros(inner + leaves, dtype=bool)
    if ctx.attr("nodes_missing_value_tracks_true"):
        missing[:inner] = ctx.attr("nodes_missing_value_tracks_true")
    sets = None if members is None else members.array.ravel().astype(np.float64)
    forest = Forest(
        feature=np.concatenate([ctx.attr("nodes_featureids"), np.zeros(leaves)]).astype(np.int64),
        mode=np.concatenate([mode, np.full(leaves, _LEAF)]),
        split=np.concatenate(
            [ctx.attr("nodes_splits").array.ravel().astype(np.float64), np.zeros(leaves)]
        ),
        missing=missing,
        true=children("true"),
        false=children("false"),
        roots=np.array(ctx.attr("tree_roots"), dtype=np.int64),
        votes=votes,
        voted=voted,
        members=_member_sets(mode, sets),
    )
    how = ("AVERAGE", "SUM", "MIN", "MAX")[ctx.attr("aggregate_function")]
    scores, _ = forest.total(_wide(x), how)
    name = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")[ctx.attr("post_transform")]
    return narrow(post_transform(name, scores), x.dtype)


_NODES: dict[str, Any] = {
    "base_values": "floats",
    "base_values_as_tensor": "t",
    "nodes_falsenodeids": "ints",
    "nodes_featureids": "ints",
    "nodes_hitrates": "floats",
    "nodes_hitrates_as_tensor": "t",
    "nodes_missing_value_tracks_true": "ints",
    "nodes_modes": "strings",
    "nodes_nodeids": "ints",
    "nodes_treeids": "ints",
    "nodes_truenodeids": "ints",
    "nodes_values": "floats",
    "nodes_values_as_tensor": "t",
    "post_transform": ("s", "NONE"),
}

register(
    OpDef(
        "TreeEnsemble",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            aggregate_function=("i", 1),
            leaf_targetids=("ints", REQUIRED),
            leaf_weights=("t", REQUIRED),
            membership_values="t",
            n_targets="i",
            nodes_falseleafs=("ints", REQUIRED),
            nodes_falsenodeids=("ints", REQUIRED),
            nodes_featureids=("ints", REQUIRED),
            nodes_hitrates="t",
            nodes_missing_value_tracks_true="ints",
            nodes_modes=("t", REQUIRED),
            nodes_splits=("t", REQUIRED),
            nodes_trueleafs=("ints", REQUIRED),
            nodes_truenodeids=("ints", REQUIRED),
            post_transform=("i", 0),
            tree_roots=("ints", REQUIRED),
        ),
        infer=_infer_ensemble,
        evaluate=_evaluate_ensemble,
    ),
    OpDef(
        "TreeEnsembleClassifier",
        ML,
        inputs=("X",),
        outputs=("Y", "Z"),
        attrs=attr_specs(
            **_NODES,
            class_ids="ints",
            class_nodeids="ints",
            class_treeids="ints",
            class_weights="floats",
            class_weights_as_tensor="t",
            classlabels_int64s="ints",
            classlabels_strings="strings",
        ),
        infer=_infer_classifier,
        evaluate=_evaluate_classifier,
    ),
    OpDef(
        "TreeEnsembleRegressor",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            **_NODES,
            aggregate_function=("s", "SUM"),
            n_targets="i",
            target_ids="ints",
            target_nodeids="ints",
            target_treeids="ints",
            target_weights="floats",
            target_weights_as_tensor="t",
        ),
        infer=_infer_regressor,
        evaluate=_evaluate_regressor,
    ),
)
