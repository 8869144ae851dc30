"""Linear models and support vector machines, domain ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.op import EvalContext, InferContext, OpDef
from graphopt.ir.types import TensorType, Type
from graphopt.ops.ml_features import ML, real
from graphopt.ops.precision import Array
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__ = ["class_labels", "named", "post_transform"]


def logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)) without overflow."""
    half = 1 / (1 + np.exp(-np.abs(x)))
    return np.where(x < 0, 1 - half, half).astype(x.dtype, copy=False)


def _probit(x: Array) -> Array:
    """The inverse of the normal distribution, by the approximation that runtimes share.

    Winitzki's inverse error function, a = 0.147.
    """
    z = (2 * x - 1).astype(x.dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log((1 - z) * (1 + z))
        v = 2 / (np.pi * 0.147) + 0.5 * log
        root = np.sqrt(-v + np.sqrt(v * v - log / 0.147))
    sign = np.where(z < 0, -1, 1)
    return np.asarray(np.sqrt(2) * sign * np.where(np.abs(z) == 1, np.inf, root)).astype(x.dtype)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _softmax_zero(x: Array) -> Array:
    """Softmax that leaves scores of 0 at 0, as it is used where 0 means "no vote"."""
    top = x.max(axis=-1, keepdims=True)
    e = np.where(np.abs(x) > 1e-7, np.exp(x - top), x * np.exp(-top))
    total = e.sum(axis=-1, keepdims=True)
    return np.where(total == 0, 0.5, e / np.where(total == 0, 1, total)).astype(x.dtype)


_TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "NONE": lambda x: x,
    "LOGISTIC": logistic,
    "SOFTMAX": _softmax,
    "SOFTMAX_ZERO": _softmax_zero,
    "PROBIT": _probit,
}


def post_transform(name: str, scores: Array) -> Array:
    """Scores [N, E] transformed row by row. Raises ValueError for an unknown transform."""
    if name not in _TRANSFORMS:
        raise ValueError(f"post_transform is '{name}'")
    return _TRANSFORMS[name](scores)


def class_labels(ctx: InferContext | EvalContext, ints: str) -> tuple[Any, ...]:
    """The class labels, ints (attribute ``ints``) or strings; () when neither is given."""
    return tuple(ctx.attr("classlabels_strings") or ctx.attr(ints) or ())


def named(index: Array, labels: Sequence[Any]) -> Array:
    """Labels of class numbers: i64, or strings."""
    strings = bool(labels) and isinstance(labels[0], str | bytes)
    table = np.array(labels, dtype=object if strings else np.int64)
    return np.asarray(table[index])


def label_type(ctx: InferContext, ints: str) -> DType:
    """Element type of the class labels."""
    labels = class_labels(ctx, ints)
    return DType.STRING if labels and isinstance(labels[0], str | bytes) else DType.I64


def _rows(ctx: InferContext) -> Dim:
    shape = ctx.shape(0)
    if shape is None:
        return ctx.fresh("rows")
    if len(shape) not in (1, 2):
        ctx.fail(f"its input must have 1 or 2 axes, not {len(shape)}")
    return shape[0] if len(shape) == 2 else 1


def _matrix(x: Array) -> Array:
    return real(x.reshape(1, -1) if x.ndim == 1 else x)


# ---- linear models ----


def _infer_linear_classifier(ctx: InferContext) -> tuple[Type, Type]:
    rows = _rows(ctx)
    labels = class_labels(ctx, "classlabels_ints")
    count = len(ctx.attr("intercepts") or ()) or max(len(labels), 1)
    width = 2 if count == 1 and len(labels) == 2 else count
    kind = label_type(ctx, "classlabels_ints")
    return TensorType(kind, (rows,)), TensorType(DType.F32, (rows, width))


def _evaluate_linear_classifier(ctx: EvalContext, x: Array) -> tuple[Array, Array]:
    data = _matrix(x)
    weights = np.array(ctx.attr("coefficients"), dtype=data.dtype).reshape(-1, data.shape[1])
    scores = data @ weights.T
    if ctx.attr("intercepts"):
        scores = scores + np.array(ctx.attr("intercepts"), dtype=data.dtype)
    labels = class_labels(ctx, "classlabels_ints")
    transform = ctx.attr("post_transform")
    if scores.shape[1] > 1:
        best = named(np.argmax(scores, axis=1), labels or range(scores.shape[1]))
        return best, post_transform(transform, scores).astype(np.float32)
    positive = (scores[:, 0] > 0).astype(np.int64)
    strings = bool(labels) and isinstance(labels[0], str | bytes)
    pair = labels if len(labels) == 2 else (("0", "1") if strings else (0, 1))
    if len(labels) == 2:
        scores = _shared(scores, transform)
    else:
        scores = post_transform(transform, scores)
    return named(positive, pair), scores.astype(np.float32)


def _shared(scores: Array, transform: str) -> Array:
    """Scores of both classes from the positive one's, which is taken as a probability.

    The specification is silent here; this is what onnxruntime does: of the transforms only
    LOGISTIC and PROBIT apply.
    """
    if transform in ("LOGISTIC", "PROBIT"):
        scores = post_transform(transform, scores)
    return np.concatenate([1 - scores, scores], axis=1)


def _infer_linear_regressor(ctx: InferContext) -> Type:
    return TensorType(DType.F32, (_rows(ctx), ctx.attr("targets")))


def _evaluate_linear_regressor(ctx: EvalContext, x: Array) -> Array:
    data, targets = _matrix(x), ctx.attr("targets")
    weights = np.array(ctx.attr("coefficients"), dtype=data.dtype).reshape(targets, -1)
    scores = data @ weights.T
    if ctx.attr("intercepts"):
        scores = scores + np.array(ctx.attr("intercepts"), dtype=data.dtype)
    return post_transform(ctx.attr("post_transform"), scores).astype(np.float32)


# ---- support vector machines ----


def _kernel(ctx: EvalContext, x: Array, vectors: Array) -> Array:
    """Kernel values [N, V] of rows and support vectors."""
    kind = ctx.attr("kernel_type")
    gamma, coef0, degree = (*(ctx.attr("kernel_params") or ()), 0.0, 0.0, 0.0)[:3]
    dot = x @ vectors.T
    match kind:
        case "LINEAR":
            return np.asarray(dot)
        case "POLY":
            return np.asarray((gamma * dot + coef0) ** degree)
        case "SIGMOID":
            return np.asarray(np.tanh(gamma * dot + coef0))
        case "RBF":
            distance = ((x[:, None] - vectors[None]) ** 2).sum(axis=-1)
            return np.asarray(np.exp(-gamma * distance))
    raise ValueError(f"kernel_type is '{kind}'")


def _svm_shape(ctx: InferContext | EvalContext) -> tuple[int, int, bool]:
    """Classes, width of the scores, and whether the scores are probabilities."""
    labels = class_labels(ctx, "classlabels_ints")
    per_class = ctx.attr("vectors_per_class") or ()
    classes = max(len(labels), 1)
    if not per_class:
        return classes, classes, False
    classes = len(per_class)
    if ctx.attr("prob_a"):
        return classes, classes, True
    pairs = classes * (classes - 1) // 2
    return classes, max(pairs, 2) if pairs == 1 else pairs, False


def _infer_svm_classifier(ctx: InferContext) -> tuple[Type, Type]:
    rows = _rows(ctx)
    _, width, _ = _svm_shape(ctx)
    kind = label_type(ctx, "classlabels_ints")
    return TensorType(kind, (rows,)), TensorType(DType.F32, (rows, width))


def _pairwise(ctx: EvalContext, x: Array) -> tuple[Array, Array]:
    """One-against-one decisions [N, pairs], and votes [N, classes]."""
    per_class = ctx.attr("vectors_per_class")
    count, total = len(per_class), sum(per_class)
    vectors = np.array(ctx.attr("support_vectors"), dtype=x.dtype).reshape(total, -1)
    weights = np.array(ctx.attr("coefficients"), dtype=x.dtype).reshape(-1, total)
    rho = ctx.attr("rho")
    kernel = _kernel(ctx, x, vectors)
    starts = np.cumsum([0, *per_class])
    votes = np.zeros((len(x), count), dtype=np.int64)
    decisions: list[Array] = []
    for i in range(count):
        for j in range(i + 1, count):
            a, b = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
            value = kernel[:, a] @ weights[j - 1, a] + kernel[:, b] @ weights[i, b]
            value = value + x.dtype.type(rho[len(decisions)])
            votes[:, i] += value > 0
            votes[:, j] += value <= 0
            decisions.append(value)
    return np.stack(decisions, axis=1), votes


def _coupled(r: Array) -> Array:
    """Class probabilities from pairwise ones [k, k]: Wu, Lin and Weng, JMLR 5 (2004), method 2."""
    k = len(r)
    q = -r.T * r
    np.fill_diagonal(q, [(np.delete(r[:, t], t) ** 2).sum() for t in range(k)])
    p = np.full(k, 1 / k)
    for _ in range(max(100, k)):
        qp = q @ p
        pqp = p @ qp
        if np.abs(qp - pqp).max() < 0.005 / k:
            break
        for t in range(k):
            step = (pqp - qp[t]) / q[t, t]
            p[t] += step
            pqp = (pqp + step * (step * q[t, t] + 2 * qp[t])) / (1 + step) ** 2
            qp = (qp + step * q[t]) / (1 + step)
            p /= 1 + step
    return p


def _probabilities(ctx: EvalContext, decisions: Array, classes: int) -> Array:
    a, b = np.array(ctx.attr("prob_a")), np.array(ctx.attr("prob_b"))
    pairs = np.clip(1 - logistic(decisions.astype(np.float64) * a + b), 1e-7, 1 - 1e-7)
    upper = np.triu_indices(classes, 1)
    result = np.empty((len(decisions), classes))
    for n, row in enumerate(pairs):
        r = np.zeros((classes, classes))
        r[upper] = row
        r.T[upper] = 1 - row
        result[n] = _coupled(r)
    return result


def _evaluate_svm_classifier(ctx: EvalContext, x: Array) -> tuple[Array, Array]:
    data = _matrix(x)
    classes, _, probable = _svm_shape(ctx)
    labels = class_labels(ctx, "classlabels_ints") or tuple(range(classes))
    transform = ctx.attr("post_transform")
    if not ctx.attr("vectors_per_class"):
        weights = np.array(ctx.attr("coefficients"), dtype=data.dtype).reshape(classes, -1)
        scores = data @ weights.T + data.dtype.type(ctx.attr("rho")[0])
        if classes == 1:
            return named((scores[:, 0] > 0).astype(np.int64), (0, 1)), scores.astype(np.float32)
        best = named(np.argmax(scores, axis=1), labels)
        return best, post_transform(transform, scores).astype(np.float32)
    decisions, votes = _pairwise(ctx, data)
    scores = decisions
    if probable:
        scores = _probabilities(ctx, decisions, classes)
    elif classes == 2:
        # One decision: positive for the first class, yet listed as the second score by runtimes.
        scores = np.concatenate([-decisions, decisions], axis=1)
    best = named(np.argmax(votes, axis=1), labels)
    return best, post_transform(transform, scores).astype(np.float32)


def _infer_svm_regressor(ctx: InferContext) -> Type:
    return TensorType(DType.F32, (_rows(ctx), 1))


def _evaluate_svm_regressor(ctx: EvalContext, x: Array) -> Array:
    data, count = _matrix(x), ctx.attr("n_supports")
    weights = np.array(ctx.attr("coefficients"), dtype=data.dtype)
    if count:
        vectors = np.array(ctx.attr("support_vectors"), dtype=data.dtype).reshape(count, -1)
        scores = _kernel(ctx, data, vectors) @ weights
    else:
        scores = data @ weights
    scores = (scores + data.dtype.type(ctx.attr("rho")[0]))[:, None]
    if ctx.attr("one_class"):
        return np.where(scores > 0, np.float32(1), np.float32(-1))
    return post_transform(ctx.attr("post_transform"), scores).astype(np.float32)


_POST = ("s", "NONE")
register(
    OpDef(
        "LinearClassifier",
        ML,
        inputs=("X",),
        outputs=("Y", "Z"),
        attrs=attr_specs(
            classlabels_ints="ints",
            classlabels_strings="strings",
            coefficients=("floats", REQUIRED),
            intercepts="floats",
            multi_class=("i", 0),
            post_transform=_POST,
        ),
        infer=_infer_linear_classifier,
        evaluate=_evaluate_linear_classifier,
    ),
    OpDef(
        "LinearRegressor",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            coefficients="floats",
            intercepts="floats",
            post_transform=_POST,
            targets=("i", 1),
        ),
        infer=_infer_linear_regressor,
        evaluate=_evaluate_linear_regressor,
    ),
    OpDef(
        "SVMClassifier",
        ML,
        inputs=("X",),
        outputs=("Y", "Z"),
        attrs=attr_specs(
            classlabels_ints="ints",
            classlabels_strings="strings",
            coefficients="floats",
            kernel_params="floats",
            kernel_type=("s", "LINEAR"),
            post_transform=_POST,
            prob_a="floats",
            prob_b="floats",
            rho="floats",
            support_vectors="floats",
            vectors_per_class="ints",
        ),
        infer=_infer_svm_classifier,
        evaluate=_evaluate_svm_classifier,
    ),
    OpDef(
        "SVMRegressor",
        ML,
        inputs=("X",),
        attrs=attr_specs(
            coefficients="floats",
            kernel_params="floats",
            kernel_type=("s", "LINEAR"),
            n_supports=("i", 0),
            one_class=("i", 0),
            post_transform=_POST,
            rho="floats",
            support_vectors="floats",
        ),
        infer=_infer_svm_regressor,
        evaluate=_evaluate_svm_regressor,
    ),
)
