"""The operator library: one OpDef an op, grouped by family.

``get("Conv")`` finds an op; families are loaded on the first look-up. Semantics are ONNX's, newest
opset. An op that nobody defines is opaque: it travels through untouched. :func:`register` defines
one more.
"""

from __future__ import annotations

from graphopt.ir.op import OpDef, set_resolver
from graphopt.ops.registry import get, known, names, register

__all__ = ["OpDef", "get", "known", "names", "register"]

set_resolver(get)
