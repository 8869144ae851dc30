"""Every node case of the ONNX suite, three ways, with inference checked against the results.

Each case runs in the interpreter with its inputs fed at run time (declared shapes), with them baked
in as constants, and with every input size a symbol of its own. Beside the case's own comparison
each value's inferred type, and its contents where inference claims to know them, must fit what was
computed; a symbol must stand for one number throughout.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt import ops
from graphopt.frontends.onnx import from_onnx
from graphopt.ir import (
    DType,
    Graph,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    Value,
    evaluate,
    symbols,
)
from graphopt.ops.interpreter import run_graph

DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")

# Ops that the suite has no case of their own for: tests of their families cover them.
UNTESTED = frozenset(
    {
        "CategoryMapper", "ConcatFromSequence", "FeatureVectorizer", "GlobalLpPool", "Imputer",
        "LinearClassifier", "LinearRegressor", "MaxRoiPool", "Multinomial", "Normalizer",
        "OneHotEncoder", "Optional", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike", "SVMClassifier", "SVMRegressor", "Scaler", "SequenceAt",
        "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceLength",
        "SimplifiedLayerNormalization", "TreeEnsembleClassifier", "TreeEnsembleRegressor",
    }
)  # fmt: skip

# Results are random: type and shape are all that can be compared.
RANDOM = ("test_bernoulli",)


@dataclass
class Checker:
    """Compares inferred types and contents with what was computed, symbols bound on the way."""

    env: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def dim(self, inferred: Any, actual: int, where: str, bind: bool = True) -> None:
        if not isinstance(inferred, int):
            unbound = [name for name in symbols(inferred) if name not in self.env]
            if unbound:
                if bind and inferred.is_symbol:
                    self.env[unbound[0]] = actual
                return
            inferred = evaluate(inferred, self.env)
        if inferred != actual:
            self.problems.append(f"{where}: inferred size {inferred}, computed {actual}")

    def value(self, inferred: Type, actual: Any, where: str, bind: bool = True) -> None:
        if isinstance(inferred, OptionalType):
            if actual is not None:
                self.value(inferred.element, actual, where, bind=False)
        elif isinstance(inferred, SequenceType):
            if not isinstance(actual, list):
                self.problems.append(f"{where}: inferred {inferred}, computed {type(actual)}")
                return
            for item in actual:
                # Symbols of a sequence's type stand for the sizes of no single element.
                self.value(inferred.element, item, where, bind=False)
        elif not isinstance(actual, np.ndarray):
            self.problems.append(f"{where}: inferred {inferred}, computed {type(actual)}")
        else:
            self.tensor(inferred, actual, where, bind)

    def tensor(self, inferred: TensorType, actual: Any, where: str, bind: bool) -> None:
        if DType.from_numpy(actual.dtype) is not inferred.dtype:
            self.problems.append(f"{where}: inferred {inferred.dtype}, computed {actual.dtype}")
        if inferred.shape is None:
            return
        if len(inferred.shape) != actual.ndim:
            self.problems.append(f"{where}: inferred {inferred}, computed shape {actual.shape}")
            return
        for axis, (dim, size) in enumerate(zip(inferred.shape, actual.shape, strict=True)):
            if bind or isinstance(dim, int):
                self.dim(dim, size, f"{where} axis {axis}", bind)

    def node_output(self, value: Value, actual: Any, inside: bool) -> None:
        """``inside`` a region symbols change from run to run."""
        where = f"%{value.name}"
        self.value(value.type, actual, where, bind=not inside)
        if value.elements is not None and not inside:
            contents = np.ravel(actual)
            if len(value.elements) != contents.size:
                self.problems.append(f"{where}: {value.elements} do not fit {contents}")
                return
            for dim, item in zip(value.elements, contents, strict=True):
                self.dim(dim, int(item), f"{where} contents", bind=False)


def _plain(value: Any) -> Any:
    """A case's value in the interpreter's form."""
    if isinstance(value, onnx.TensorProto):
        return _plain(numpy_helper.to_array(value))
    if isinstance(value, onnx.SequenceProto):
        return [_plain(x) for x in numpy_helper.to_list(value)]
    if isinstance(value, onnx.OptionalProto):
        return _plain(numpy_helper.to_optional(value))
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype.kind in "USO":
        flat = [x.decode() if isinstance(x, bytes) else str(x) for x in array.ravel().tolist()]
        result = np.empty(len(flat), dtype=object)
        result[:] = flat
        return result.reshape(array.shape)
    return array


def _differs(expected: Any, actual: Any, rtol: float, atol: float) -> str:
    if isinstance(expected, list) or expected is None or isinstance(actual, list):
        if type(expected) is not type(actual):
            return f"expected {expected}, computed {actual}"
        if expected is None:
            return ""
        if len(expected) != len(actual):
            return f"expected {len(expected)} elements, computed {len(actual)}"
        pairs = zip(expected, actual, strict=True)
        return next((text for a, b in pairs if (text := _differs(a, b, rtol, atol))), "")
    if expected.dtype != actual.dtype or expected.shape != actual.shape:
        found = f"{actual.dtype}{actual.shape}"
        return f"expected {expected.dtype}{expected.shape}, computed {found}"
    if expected.dtype.kind in "OiubV" and not DType.from_numpy(expected.dtype).is_float:
        same = np.array_equal(expected, actual)
        return "" if same else f"expected {expected.ravel()[:8]}, computed {actual.ravel()[:8]}"
    if expected.dtype.name == "bfloat16":
        # Two units in the last place, which is what onnx's own runner allows.
        rtol = max(rtol, 2**-6)
    if expected.dtype.kind != "c":
        expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    if np.allclose(actual, expected, rtol=rtol, atol=atol, equal_nan=True):
        return ""
    worst = np.nanmax(np.abs(actual - expected))
    return f"differs by up to {worst}"


def _symbolic(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Input shapes with a symbol for every size that is at least 1."""
    shapes = {}
    for info in model.graph.input:
        if info.type.HasField("tensor_type") and info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            shapes[info.name] = [f"in_{info.name}_{axis}" for axis in range(len(dims))]
    return shapes


def _constant(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with its tensor inputs as initializers, and the inputs that are left."""
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    left, kept = [], []
    for info, given in zip(model.graph.input, inputs, strict=False):
        if info.type.HasField("tensor_type") and isinstance(given, np.ndarray):
            baked.graph.initializer.append(numpy_helper.from_array(given, info.name))
        else:
            left.append(info)
            kept.append(given)
    del baked.graph.input[:]
    baked.graph.input.extend(left)
    return baked, kept


def _run(graph: Graph, inputs: list[Any]) -> tuple[list[Any], list[str]]:
    checker = Checker()
    for value, given in zip(graph.inputs, inputs, strict=True):
        checker.value(value.type, given, f"%{value.name}")
        checker.problems.clear()

    def observe(node: Any, results: Any) -> None:
        for value, result in zip(node.outputs, results, strict=False):
            if value.use_count:
                checker.node_output(value, result, node.graph is not graph)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = run_graph(graph, inputs, observe=observe)
    return results, checker.problems


def _problems(case: Any, way: str) -> Iterator[str]:
    for raw_inputs, raw_outputs in case.data_sets:
        inputs, expected = [_plain(x) for x in raw_inputs], [_plain(x) for x in raw_outputs]
        model, shapes = case.model, {}
        if way == "constant":
            model, inputs = _constant(model, inputs)
        elif way == "symbolic":
            shapes = _symbolic(model)
        graph = from_onnx(model, input_shapes=shapes)
        results, found = _run(graph, inputs)
        yield from found
        for name, want, got in zip(graph.output_names, expected, results, strict=True):
            if case.name.startswith(RANDOM):
                text = "" if want.shape == got.shape and want.dtype == got.dtype else "type"
            else:
                text = _differs(want, got, case.rtol, case.atol)
            if text:
                yield f"output '{name}' {text}"


def run_case(case: Any, way: str) -> list[str]:
    """What is wrong with a case run one way; nothing when it passes."""
    try:
        return list(_problems(case, way))
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


@lru_cache(maxsize=1)
def cases_by_op() -> dict[tuple[str, str], list[Any]]:
    """All node cases but function expansions, by domain and name of the op."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[tuple[str, str], list[Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            if "_expanded" not in case.name:
                node = case.model.graph.node[0]
                found.setdefault((node.domain, node.op_type), []).append(case)
    return found


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        pytest.param(domain, name, id=f"{domain}::{name}" if domain else name)
        for domain in DOMAINS
        for name in ops.names(domain)
        if name not in UNTESTED
    ],
)
def test_node_cases(domain: str, name: str) -> None:
    cases = cases_by_op().get((domain, name), [])
    assert cases, f"the suite has no case for {name}: list it in UNTESTED and test it elsewhere"
    failures = []
    for case in cases:
        for way in ("runtime", "constant", "symbolic"):
            failures += [f"{case.name} ({way}): {text}" for text in run_case(case, way)]
    assert not failures, "\n".join(failures)


def test_untested_ops_have_no_case() -> None:
    assert not {name for _, name in cases_by_op()} & UNTESTED
