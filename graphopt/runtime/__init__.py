"""Loading and running artifacts. Needs numpy and the native module, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.runtime.session import ProfileRow, Session, TensorSpec, load, open_artifact

if TYPE_CHECKING:
    from graphopt.runtime.artifact import Artifact

__all__ = ["Artifact", "ProfileRow", "Session", "TensorSpec", "load", "open_artifact"]


def __getattr__(name: str) -> Any:
    if name == "Artifact":  # its imports cost more than running a model needs
        from graphopt.runtime.artifact import Artifact

        return Artifact
    raise AttributeError(f"module 'graphopt.runtime' has no attribute '{name}'")
