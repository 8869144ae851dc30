"""The public API: what it offers, that it is documented, and that every module imports."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

import graphopt

PACKAGE = Path(graphopt.__file__).parent
PROMISED = {"compile", "from_onnx", "load", "optimize", "parse", "to_onnx"}


def _modules() -> list[str]:
    names = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] != "__main__":
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def test_the_promised_names_are_public() -> None:
    assert set(graphopt.__all__) >= PROMISED


@pytest.mark.parametrize("name", sorted(graphopt.__all__))
def test_public_names_exist_and_are_documented(name: str) -> None:
    value = getattr(graphopt, name)
    if inspect.isfunction(value) or inspect.isclass(value):
        assert inspect.getdoc(value), f"graphopt.{name} has no docstring"


def test_all_is_sorted_and_free_of_private_names() -> None:
    names = [name for name in graphopt.__all__ if not name.startswith("__")]
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("_")]


def test_dir_shows_what_is_public() -> None:
    """Lazy attributes are found by completion too."""
    assert set(graphopt.__all__) <= set(dir(graphopt))


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="compyle"):
        graphopt.compyle


@pytest.mark.parametrize("name", _modules())
def test_every_module_imports_and_says_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("name", _modules())
def test_declared_names_exist(name: str) -> None:
    module = importlib.import_module(name)
    missing = [item for item in getattr(module, "__all__", ()) if not hasattr(module, item)]
    assert not missing, f"{name}.__all__ names {missing}"
