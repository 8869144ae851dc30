"""The passes of the CUDA backend by name, for pipelines written as text."""

from __future__ import annotations

from graphopt.rewrite import PassTable

__all__ = ["TABLE"]

TABLE = PassTable(
    {
        "cuda-fuse-tails": "graphopt.backends.cuda.fuse_tails:FuseTails",
        "cuda-half-storage": "graphopt.backends.cuda.half_storage:HalfStorage",
        "cuda-lower-dense": "graphopt.backends.cuda.lower_dense:LowerDense",
    }
)
