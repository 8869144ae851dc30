"""Replaying an edit log: the input graph becomes the output graph again, edit by edit."""

from __future__ import annotations

from graphopt.errors import ModelError, OptionError
from graphopt.ir import Graph, clone, play
from graphopt.rewrite.log import EditLog

__all__ = ["replay"]


def replay(source: Graph, log: EditLog, edits: int | None = None) -> Graph:
    """A new graph: ``source``, which the passes of ``log`` started from, after its first ``edits``
    edits (all by default), to the last name and constant.

    Raises OptionError when the log was made without recording, ModelError when ``source`` is not
    the graph that the log was made of.
    """
    if len(log) and not log.replayable:
        raise OptionError("this log cannot be replayed: make it by EditLog(record=True)")
    count = len(log) if edits is None else edits
    if not 0 <= count <= len(log):
        raise OptionError(f"the log has {len(log)} edits, not {count}")
    graph = clone(source)
    try:
        play(graph, log.entries(0, count))
    except (KeyError, ModelError, ValueError) as error:
        raise ModelError(
            f"the log was made of another graph than '{source.name}': {error}"
        ) from None
    return graph
