"""Every change of every ONNX op is either upgraded or was reviewed and found to need nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from onnx import defs

from graphopt.frontends import onnx_draft

# Attributes that came later with a default that says what older versions did.
NEUTRAL_ADDITIONS = {
    "ArgMax": {"select_last_index"}, "ArgMin": {"select_last_index"},
    "Attention": {"left_window_size", "right_window_size"},
    "AveragePool": {"count_include_pad", "ceil_mode", "dilations"},
    "BatchNormalization": {"training_mode"}, "Cast": {"saturate", "round_mode"},
    "CastLike": {"saturate", "round_mode"}, "DepthToSpace": {"mode"},
    "DequantizeLinear": {"axis", "block_size", "output_dtype"}, "Dropout": {"seed"},
    "GRU": {"linear_before_reset", "layout"}, "GatherND": {"batch_dims"},
    "GroupNormalization": {"stash_type"}, "LSTM": {"layout"}, "LpPool": {"ceil_mode", "dilations"},
    "MaxPool": {"storage_order", "ceil_mode", "dilations"},
    "QuantizeLinear": {"axis", "saturate", "block_size", "output_dtype", "precision"},
    "RNN": {"layout"}, "Range": {"stash_type"}, "Reshape": {"allowzero"},
    "Resize": {"antialias", "axes", "keep_aspect_ratio_policy"}, "ScatterElements": {"reduction"},
    "ScatterND": {"reduction"}, "Shape": {"start", "end"}, "SpaceToDepth": {"mode"},
    "Split": {"num_outputs"}, "TopK": {"largest", "sorted"},
    "Constant": {"sparse_value", "value_float", "value_floats", "value_int", "value_ints",
                 "value_string", "value_strings"},
    "LabelEncoder": {"default_tensor", "keys_tensor", "values_tensor"},
    "TreeEnsembleClassifier": {"base_values_as_tensor", "class_weights_as_tensor",
                               "nodes_hitrates_as_tensor", "nodes_values_as_tensor"},
    "TreeEnsembleRegressor": {"base_values_as_tensor", "target_weights_as_tensor",
                              "nodes_hitrates_as_tensor", "nodes_values_as_tensor"},
}  # fmt: skip
for _name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"):
    NEUTRAL_ADDITIONS[f"Reduce{_name}"] = {"noop_with_empty_axes"}

# Changes that leave every older node valid and its meaning the same.
HARMLESS = {
    ("Attention", 24),  # one more optional operand, at the end
    ("GRU", 3),  # the default was misspelt
    ("Gemm", 11),  # an operand became optional
    ("OptionalHasElement", 18),  # its operand became optional
    ("Pad", 18),  # one more optional operand, at the end
}


def _pairs() -> Iterator[tuple[Any, Any]]:
    table = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        table[schema.domain, schema.name].append(schema)
    for key in sorted(table):
        versions = sorted(table[key], key=lambda s: s.since_version)
        yield from pairwise(versions)


def _default(attribute: Any) -> str:
    return str(attribute.default_value) if attribute.default_value.type else ""


def _changes(old: Any, new: Any) -> list[str]:
    """What an older node could say that the newer version takes otherwise."""
    found = []
    for name in sorted({*old.attributes, *new.attributes}):
        before, after = old.attributes.get(name), new.attributes.get(name)
        if after is None:
            found.append(f"attribute {name} is gone")
        elif before is None:
            neutral = NEUTRAL_ADDITIONS.get(new.name, ())
            if after.required or name not in neutral:
                found.append(f"attribute {name} is new")
        elif before.type != after.type or _default(before) != _default(after):
            found.append(f"attribute {name} changed")
        elif after.required and not before.required:
            found.append(f"attribute {name} is required")
    if [p.option for p in old.inputs] != [p.option for p in new.inputs]:
        found.append("operands changed")
    if len(new.outputs) < len(old.outputs):
        found.append("outputs are gone")
    return found


def _has_step(domain: str, op: str, version: int) -> bool:
    onnx_draft._load()
    return any(v == version for v, _ in onnx_draft._steps.get((domain, op), ()))


@pytest.mark.parametrize(
    ("old", "new"), list(_pairs()), ids=lambda schema: f"{schema.name}-{schema.since_version}"
)
def test_every_change_is_upgraded(old: Any, new: Any) -> None:
    changes = _changes(old, new)
    if not changes or _has_step(new.domain, new.name, new.since_version):
        return
    if new.deprecated:
        # Renamed ops are taken over by a step of their own, or stay as they are.
        assert _has_step(new.domain, new.name, 1000) or new.domain, new.name
        return
    assert (new.name, new.since_version) in HARMLESS, f"{new.name}-{new.since_version}: {changes}"


def test_changes_of_meaning_alone_are_upgraded_too() -> None:
    """Same form, other meaning: only the documents tell."""
    for op, version in [
        ("PRelu", 7), ("Dropout", 10), ("BatchNormalization", 14), ("OneHot", 11),
        ("Softmax", 13), ("LogSoftmax", 13), ("Hardmax", 13), ("GroupNormalization", 21),
        ("RoiAlign", 16), ("Split", 18), ("Upsample", 10),
    ]:  # fmt: skip
        assert _has_step("", op, version), op


def test_no_step_is_for_an_op_that_never_was() -> None:
    known = {(s.domain, s.name) for s in defs.get_all_schemas_with_history()}
    onnx_draft._load()
    assert set(onnx_draft._steps) <= known
