"""The pass library: one pass a file. ``TABLE`` finds passes by name, lazily."""

from __future__ import annotations

from graphopt.rewrite import PassTable, Pipeline

__all__ = ["TABLE", "parse_pipeline"]

TABLE = PassTable(
    {
        "eliminate-dead": "graphopt.passes.eliminate_dead:EliminateDead",
        "fold-constants": "graphopt.passes.fold_constants:FoldConstants",
        "merge-common": "graphopt.passes.merge_common:MergeCommon",
    }
)


def parse_pipeline(spec: str) -> Pipeline:
    """The pipeline that a text such as ``fold-constants,simplify{...}`` describes."""
    return TABLE.parse(spec)
