"""The verifier: what every graph keeps to, and what each stage adds."""

from __future__ import annotations

import enum
from collections.abc import Callable

from graphopt.errors import ModelError, VerifyError
from graphopt.ir.graph import Graph, Node, Use, Value

__all__ = ["Stage", "verify"]


class Stage(enum.Enum):
    """How far a graph is lowered."""

    SOURCE = "source"  # any ONNX op, custom domains untouched
    CORE = "core"  # the canonical op set that passes match
    LOWERED = "lowered"  # only what a backend accepts


def verify(
    graph: Graph,
    stage: Stage = Stage.SOURCE,
    *,
    types: bool = False,
    accepts: Callable[[Node], str | None] | None = None,
) -> None:
    """Raises VerifyError, naming node and cause, when an invariant is broken.

    Always: values defined before use and in scope; use-def chains consistent; names unique; operand
    counts as the schema says; every node has an origin. ``types`` re-infers each node and compares.
    ``accepts(node)`` returns a reason why a node may not stand in a LOWERED (or CORE) graph.
    """
    names: set[str] = set()
    _verify_graph(graph, set(), names, stage, types, accepts)


def _fail(node: Node | None, cause: str) -> None:
    where = f"{node.name or ''} {node!r}: ".lstrip() if node is not None else ""
    raise VerifyError(where + cause)


def _verify_graph(
    graph: Graph,
    scope: set[Value],
    names: set[str],
    stage: Stage,
    types: bool,
    accepts: Callable[[Node], str | None] | None,
) -> None:
    scope = set(scope)
    for value in (*graph.inputs, *graph.constants.values()):
        _define(value, graph, None, scope, names)
    count = 0
    for node in graph:
        count += 1
        _verify_node(node, graph, scope)
        for region in node.regions:
            if region.parent is not graph:
                _fail(node, f"region '{region.name}' belongs to another graph")
            _verify_graph(region, scope, names, stage, types, accepts)
        if types:
            _verify_types(node)
        reason = accepts(node) if accepts is not None else None
        if reason:
            _fail(node, f"not allowed in a {stage.value} graph: {reason}")
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                _fail(node, f"%{value.name} names another producer")
            _define(value, graph, node, scope, names)
    if count != len(graph):
        raise VerifyError(f"graph '{graph.name}' counts {len(graph)} nodes but links {count}")
    for index, value in enumerate(graph.outputs):
        if value not in scope:
            raise VerifyError(f"output '{graph.output_names[index]}' is not defined in the graph")
        if (id(graph), index) not in value._uses:
            raise VerifyError(f"%{value.name} does not know that it is output {index}")
    if len(set(graph.output_names)) != len(graph.output_names):
        raise VerifyError(f"graph '{graph.name}' has two outputs of one name")


def _define(
    value: Value, graph: Graph, node: Node | None, scope: set[Value], names: set[str]
) -> None:
    if value.name in names:
        _fail(node, f"the name %{value.name} is used twice")
    if value.graph is not graph:
        _fail(node, f"%{value.name} says that it belongs to another graph")
    names.add(value.name)
    scope.add(value)
    for key, use in value._uses.items():
        if not _use_holds(value, key, use):
            _fail(node, f"%{value.name} lists a use that does not read it")


def _use_holds(value: Value, key: tuple[int, int], use: Use) -> bool:
    user, index = use.user, use.index
    if key != (id(user), index):
        return False
    if isinstance(user, Node):
        return not user.erased and user.input(index) is value
    return index < len(user.outputs) and user.outputs[index] is value


def _verify_node(node: Node, graph: Graph, scope: set[Value]) -> None:
    op = node.op
    if node.graph is not graph:
        _fail(node, "belongs to another graph")
    if not node.origin:
        _fail(node, "has no origin")
    if len(node.inputs) < op.min_inputs:
        _fail(node, f"{op.qualified} takes at least {op.min_inputs} operands")
    if op.max_inputs is not None and len(node.inputs) > op.max_inputs:
        _fail(node, f"{op.qualified} takes at most {op.max_inputs} operands")
    if op.max_outputs is not None and len(node.outputs) > op.max_outputs:
        _fail(node, f"{op.qualified} yields at most {op.max_outputs} outputs")
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if value not in scope:
            _fail(node, f"operand %{value.name} is used before it is defined or out of scope")
        if (id(node), index) not in value._uses:
            _fail(node, f"%{value.name} does not know this use")


def _verify_types(node: Node) -> None:
    if node.op.infer is None:
        return
    try:
        types, _ = node.graph.infer(
            node.op, list(node.inputs), node.attrs, len(node.outputs), node.name
        )
    except ModelError as error:
        raise VerifyError(str(error)) from error
    for value, type in zip(node.outputs, types, strict=True):
        if _conflict(value.type, type):
            _fail(node, f"%{value.name} is declared {value.type} but inferred {type}")


def _conflict(declared: object, inferred: object) -> bool:
    from graphopt.ir.types import TensorType

    if not isinstance(declared, TensorType) or not isinstance(inferred, TensorType):
        return declared.__class__ is not inferred.__class__
    if declared.dtype != inferred.dtype:
        return True
    if declared.shape is None or inferred.shape is None:
        return False
    if len(declared.shape) != len(inferred.shape):
        return True
    return any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(declared.shape, inferred.shape, strict=True)
    )
