"""Arithmetic as polynomials: how passes recognise a formula whatever way it is grouped."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, Value

__all__ = ["Polynomial", "Terms", "number"]

# Coefficients by the powers of the atoms: {(1, 0): 0.5} is half the first atom.
Terms = dict[tuple[int, ...], float]

_MAX_TERMS = 8
_MAX_DEPTH = 10


def number(value: Value | None) -> float | None:
    """The number that a one-element constant holds."""
    if value is None or value.constant is None or value.constant.numel != 1:
        return None
    return float(value.constant.array.reshape(()))


class Polynomial:
    """``value`` as a polynomial of ``atoms``. ``terms`` is None where it is none, or a large one.

    ``nodes`` are those between the value and the atoms, readers first.
    """

    def __init__(self, value: Value, atoms: Sequence[Value]) -> None:
        self.atoms = list(atoms)
        self.nodes: list[Node] = []
        self.terms = self._expand(value, 0)

    def is_close(self, wanted: Terms, tolerance: float) -> bool:
        """True when the coefficients are those of ``wanted``, to a relative ``tolerance``."""
        if self.terms is None or self.terms.keys() != wanted.keys():
            return False
        return all(abs(self.terms[k] - c) <= tolerance * abs(c) for k, c in wanted.items())

    def _expand(self, value: Value, depth: int) -> Terms | None:
        for index, atom in enumerate(self.atoms):
            if value is atom:
                return {tuple(int(i == index) for i in range(len(self.atoms))): 1.0}
        constant = number(value)
        if constant is not None:
            return {(0,) * len(self.atoms): constant}
        node = value.producer
        if node is None or node.op.domain or depth > _MAX_DEPTH or len(node.inputs) not in (1, 2):
            return None
        if node not in self.nodes:
            self.nodes.append(node)
        result = self._combine(node, depth)
        return result if result is not None and len(result) <= _MAX_TERMS else None

    def _combine(self, node: Node, depth: int) -> Terms | None:
        left = node.inputs[0]
        right = node.inputs[1] if len(node.inputs) > 1 else None
        assert left is not None
        name = node.op.name
        if name not in ("Add", "Sub", "Mul", "Div", "Pow", "Neg"):
            return None
        a = self._expand(left, depth + 1)
        if a is None:
            return None
        if name == "Neg":
            return {k: -c for k, c in a.items()}
        if name in ("Div", "Pow"):
            by = number(right)
            if by is None:
                return None
            if name == "Div":
                return {k: c / by for k, c in a.items()} if by else None
            return _power(a, by)
        b = None if right is None else self._expand(right, depth + 1)
        if b is None:
            return None
        return _times(a, b) if name == "Mul" else _plus(a, b, -1.0 if name == "Sub" else 1.0)


def _plus(a: Terms, b: Terms, sign: float) -> Terms:
    result = dict(a)
    for powers, coefficient in b.items():
        result[powers] = result.get(powers, 0.0) + sign * coefficient
    return {k: c for k, c in result.items() if c}


def _times(a: Terms, b: Terms) -> Terms:
    result: Terms = {}
    for p, x in a.items():
        for q, y in b.items():
            powers = tuple(i + j for i, j in zip(p, q, strict=True))
            result[powers] = result.get(powers, 0.0) + x * y
    return {k: c for k, c in result.items() if c}


def _power(a: Terms, by: float) -> Terms | None:
    if by not in (2.0, 3.0):
        return None
    square = _times(a, a)
    return square if by == 2.0 else _times(square, a)
