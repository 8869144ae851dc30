"""Cheap tests of whether a pattern could match at a node at all.

Most patterns fail at a first operand of another op. A test looks at the operands alone, once for
each pattern and node; what passes it is matched in full. It never turns a match away.
"""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir import Node, OpDef, Trait, Value, resolve_op
from graphopt.rewrite.pattern import AnyOf, NodePattern, Optional_, Pattern, Rest, Scalar, Var

__all__ = ["Test", "compile_test"]

Test = Callable[[Node], bool]
# What one operand asks for: a constant, or a producer among those ops.
_Need = tuple[int, frozenset[OpDef] | None]


def compile_test(pattern: NodePattern) -> Test | None:
    """The test of a pattern for nodes of its root op; None where every such node passes."""
    operands = pattern.operands
    open_ended = bool(operands) and isinstance(operands[-1], Rest)
    fixed = operands[:-1] if open_ended else operands
    orders = [_needs(fixed)]
    op = resolve_op(pattern.op, pattern.domain)
    if len(operands) == 2 and not open_ended and op.has(Trait.COMMUTATIVE):
        orders.append(_needs(fixed[::-1]))
    least = sum(1 for item in fixed if not isinstance(item, Optional_))
    most = None if open_ended else len(fixed)
    if any(not needs for needs in orders) and not least and most is None:
        return None

    def test(node: Node) -> bool:
        values = node._inputs
        if len(values) < least or (most is not None and len(values) > most):
            return False
        return any(_holds(needs, values) for needs in orders)

    return test


def _needs(operands: tuple[Pattern, ...]) -> list[_Need]:
    found: list[_Need] = []
    for index, operand in enumerate(operands):
        if isinstance(operand, Scalar) or (isinstance(operand, Var) and operand.constant):
            found.append((index, None))
        else:
            ops = _producers(operand)
            if ops:
                found.append((index, ops))
    return found


def _producers(pattern: Pattern) -> frozenset[OpDef] | None:
    """Ops that must produce what ``pattern`` matches; None when it may be anything."""
    if isinstance(pattern, NodePattern):
        return frozenset({resolve_op(pattern.op, pattern.domain)})
    if isinstance(pattern, AnyOf):
        found: set[OpDef] = set()
        for option in pattern.options:
            ops = _producers(option)
            if ops is None:
                return None
            found |= ops
        return frozenset(found)
    return None


def _holds(needs: list[_Need], values: list[Value | None]) -> bool:
    for index, ops in needs:
        value = values[index] if index < len(values) else None
        if value is None:
            return False
        if ops is None:
            if value.constant is None:
                return False
        elif value.producer is None or value.producer.op not in ops:
            return False
    return True
