"""Sets of names as one option of a pass or target, whatever characters the names hold."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote, unquote

__all__ = ["escape_name", "join_names", "split_names", "unescape_name"]


def escape_name(name: str) -> str:
    """``name`` with what has a meaning in options escaped, as in a URL."""
    return quote(name, safe="/._-")


def unescape_name(text: str) -> str:
    """The name that :func:`escape_name` made ``text`` of."""
    return unquote(text)


def join_names(names: Iterable[str]) -> str:
    """The names, escaped and sorted, with '+' between them."""
    return "+".join(sorted(map(escape_name, names)))


def split_names(text: str) -> frozenset[str]:
    """The names that :func:`join_names` made ``text`` of."""
    return frozenset(unescape_name(part) for part in text.split("+") if part)
