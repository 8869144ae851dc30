"""Every error that graphopt raises on bad input or a missing tool.

Each message is one clear statement: which file or node, what is wrong, what to do.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "BudgetError",
    "CompileError",
    "ExecutionError",
    "GraphoptError",
    "InputError",
    "ModelError",
    "OperandError",
    "OptionError",
    "ParseError",
    "ToolchainError",
    "UnsupportedError",
    "VerificationError",
    "VerifyError",
]


class GraphoptError(Exception):
    """Base of all errors that a user can cause or act upon."""

    exit_code: int = 1


class OptionError(GraphoptError):
    """An option, a pass name or a target that does not exist or does not fit."""

    exit_code = 2


class ModelError(GraphoptError):
    """The model file is missing, malformed, truncated or breaks the ONNX specification."""

    exit_code = 3


class OperandError(ModelError):
    """Operands that an operator does not take: where the node runs, the run fails."""


class ParseError(ModelError):
    """Text in the `.gir` form that does not parse."""


class VerifyError(ModelError):
    """A graph that breaks an invariant of its stage."""


class UnsupportedError(GraphoptError):
    """Something well-formed that no backend, or not this one, can do."""

    exit_code = 4


class CompileError(GraphoptError):
    """Code generation failed for a graph that should compile."""

    exit_code = 5


class ToolchainError(GraphoptError):
    """A package, compiler or device that the request needs is not there."""

    exit_code = 6


class ArtifactError(GraphoptError):
    """An artifact that is truncated, altered, foreign or cannot be written."""

    exit_code = 7


class InputError(GraphoptError):
    """Arrays given to a session that do not fit the model's inputs."""

    exit_code = 8


class ExecutionError(GraphoptError):
    """A run failed: values that an operator forbids, or a node that the interpreter cannot run."""

    exit_code = 10


class VerificationError(GraphoptError):
    """The compiled model's numbers differ from the source model's by more than the budget.

    ``excess`` is the worst output's error over what is allowed.
    """

    exit_code = 9

    def __init__(self, message: str, excess: float = float("inf")) -> None:
        super().__init__(message)
        self.excess = excess


class BudgetError(GraphoptError):
    """Compression lost more accuracy than it may, or gained nothing where a gain is required."""

    exit_code = 11


def missing_extra(package: str, extra: str) -> ToolchainError:
    """The one-line error for a package that an extra brings."""
    return ToolchainError(f"{package} is not installed; `pip install graphopt[{extra}]` brings it")
