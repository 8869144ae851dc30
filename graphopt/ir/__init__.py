"""The typed graph IR: values, nodes, graphs, symbolic sizes, text form, verifier.

Mechanism only: concrete operators live in :mod:`graphopt.ops`.
"""

from graphopt.ir.builder import Builder
from graphopt.ir.clone import clone, copy_nodes
from graphopt.ir.constant import Constant
from graphopt.ir.dim import (
    Dim,
    Expr,
    bcast,
    ceildiv,
    dim_max,
    dim_min,
    evaluate,
    ne1,
    parse_dim,
    product,
    substitute,
    sym,
    symbols,
)
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Node, Origin, Use, Value
from graphopt.ir.journal import Journal, play
from graphopt.ir.op import (
    REQUIRED,
    AttrSpec,
    Cost,
    EvalContext,
    InferContext,
    OpDef,
    Trait,
    opaque_op,
    resolve_op,
    set_resolver,
)
from graphopt.ir.parse import parse, parse_attr, parse_type
from graphopt.ir.text import print_attr, print_graph, print_node
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type, static_shape
from graphopt.ir.verify import Stage, verify

__all__ = [
    "REQUIRED",
    "AttrSpec",
    "Builder",
    "Constant",
    "Cost",
    "DType",
    "Dim",
    "EvalContext",
    "Expr",
    "Graph",
    "InferContext",
    "Journal",
    "Node",
    "OpDef",
    "OptionalType",
    "Origin",
    "SequenceType",
    "Stage",
    "TensorType",
    "Trait",
    "Type",
    "Use",
    "Value",
    "bcast",
    "ceildiv",
    "clone",
    "copy_nodes",
    "dim_max",
    "dim_min",
    "evaluate",
    "ne1",
    "opaque_op",
    "parse",
    "parse_attr",
    "parse_dim",
    "parse_type",
    "play",
    "print_attr",
    "print_graph",
    "print_node",
    "product",
    "resolve_op",
    "set_resolver",
    "static_shape",
    "substitute",
    "sym",
    "symbols",
    "verify",
]
