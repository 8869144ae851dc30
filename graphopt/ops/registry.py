"""The table of operators. Families register here when first needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from graphopt.ir.op import OpDef, opaque_op

__all__ = ["get", "known", "names", "register"]

# Explicit, so that a missing family is an error and the order is fixed.
_FAMILIES = (
    "graphopt.ops.pointwise",
    "graphopt.ops.logic",
    "graphopt.ops.activations",
    "graphopt.ops.cast",
    "graphopt.ops.reductions",
    "graphopt.ops.shape",
    "graphopt.ops.movement",
    "graphopt.ops.gather",
    "graphopt.ops.pad",
    "graphopt.ops.select",
    "graphopt.ops.stochastic",
    "graphopt.ops.strings",
    "graphopt.ops.control",
    "graphopt.ops.containers",
    "graphopt.ops.linear",
    "graphopt.ops.conv",
    "graphopt.ops.pool",
    "graphopt.ops.norm",
    "graphopt.ops.softmax",
    "graphopt.ops.recurrent",
    "graphopt.ops.resize",
    "graphopt.ops.attention",
    "graphopt.ops.fused",
    "graphopt.ops.quantize",
    "graphopt.ops.quantized_linear",
    "graphopt.ops.losses",
    "graphopt.ops.sampling",
    "graphopt.ops.regions",
    "graphopt.ops.signal",
    "graphopt.ops.tfidf",
    "graphopt.ops.training",
    "graphopt.ops.ml_features",
    "graphopt.ops.ml_linear",
    "graphopt.ops.ml_trees",
    "graphopt.ops.microsoft",
    "graphopt.ops.microsoft_quantized",
    "graphopt.ops.microsoft_attention",
)
# ONNX writes its own domain in two ways.
_DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})

_table: dict[tuple[str, str], OpDef] = {}
_opaque: dict[tuple[str, str], OpDef] = {}
_loaded = False


def register(*ops: OpDef) -> None:
    """Adds ops to the table. Raises ValueError when a name is taken."""
    for op in ops:
        key = (op.name, op.domain)
        if key in _table:
            raise ValueError(f"the op {op.qualified} is registered twice")
        _table[key] = op


def _load() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        for module in _FAMILIES:
            importlib.import_module(module)


def known(name: str, domain: str = "") -> OpDef | None:
    """The op of that name, None when graphopt does not define it."""
    _load()
    return _table.get((name, "" if domain in _DEFAULT_DOMAINS else domain))


def get(name: str, domain: str = "") -> OpDef:
    """The op of that name; an opaque op (always the same one) when graphopt does not define it."""
    found = known(name, domain)
    if found is None:
        key = (name, domain)
        found = _opaque.get(key)
        if found is None:
            found = _opaque[key] = opaque_op(name, domain)
    return found


def names(domain: str = "") -> Iterable[str]:
    """Names of all defined ops of a domain, sorted."""
    _load()
    return sorted(name for name, d in _table if d == domain)
