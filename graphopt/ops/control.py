"""Control flow: If, Loop, Scan.

Types of outputs come from the regions. A region's own symbols (sizes that each run of it decides
anew) mean nothing outside: they leave as fresh ones.

The types of a region's inputs are given by who builds it. Those of values that a loop carries must
hold in every iteration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from graphopt.errors import OperandError
from graphopt.ir.dim import Dim, dim_max, symbols
from graphopt.ir.graph import Graph, Value
from graphopt.ir.op import EvalContext, InferContext, OpDef, Trait
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type, static_shape
from graphopt.ops.elementary import Array
from graphopt.ops.infer import instantiate, known, merge_dims, unify
from graphopt.ops.registry import register
from graphopt.ops.schema import REQUIRED, attr_specs

__all__ = ["IMPOSSIBLE", "certain", "impossible", "make_impossible", "outward", "region_attr"]

_CONTROL = frozenset({Trait.CONTROL_FLOW})


# ---- scopes ----


def region_attr(ctx: InferContext | EvalContext, name: str) -> Graph:
    """The region that attribute ``name`` holds; fails when it is none."""
    region = ctx.attr(name)
    if not isinstance(region, Graph):
        ctx.fail(f"attribute '{name}' is no graph")
    return region


def _captured(region: Graph, inner: tuple[Graph, ...] = ()) -> Iterator[Value]:
    """Values from outside that a region, or one nested in it, reads."""
    inside = (*inner, region)
    for node in region:
        for value in node.inputs:
            if value is not None and value.graph not in inside:
                yield value
        for nested in node.regions:
            yield from _captured(nested, inside)
    for value in region.outputs:
        if value.graph not in inside:
            yield value


def _type_symbols(found: Type) -> Iterator[str]:
    while isinstance(found, SequenceType | OptionalType):
        found = found.element
    for dim in found.shape or ():
        yield from symbols(dim)


def _visible(ctx: InferContext, regions: Sequence[Graph]) -> frozenset[str]:
    """Symbols that have a meaning where the node stands."""
    values = [value for value in ctx.inputs if value is not None]
    for region in regions:
        values += _captured(region)
    found: set[str] = set()
    for value in values:
        found.update(_type_symbols(value.type))
        for dim in value.elements or ():
            found.update(symbols(dim))
    return frozenset(found)


def outward(ctx: InferContext, regions: Sequence[Graph], types: Sequence[Type]) -> list[Type]:
    """``types`` as they are seen outside of ``regions``."""
    visible = _visible(ctx, regions)
    hint = ctx.op.name.lower()
    return [instantiate(ctx, t, lambda name: name not in visible, hint) for t in types]


def _count(ctx: InferContext, found: int, wanted: int, what: str) -> None:
    if found != wanted:
        ctx.fail(f"{what} is {found}, not {wanted}")


# ---- If ----


def _evaluate_impossible(ctx: EvalContext) -> tuple[Any, ...]:
    raise OperandError(ctx.attr("reason"))


# What is left of a branch with a node whose operands do not fit: to run it is an error.
IMPOSSIBLE = OpDef(
    "Impossible",
    "graphopt",
    outputs=("outputs*",),
    attrs=attr_specs(reason=("s", "")),
    evaluate=_evaluate_impossible,
)
register(IMPOSSIBLE)


def impossible(region: Graph) -> str | None:
    """Why ``region`` cannot run; None as far as one can tell."""
    for node in region:
        if node.op is IMPOSSIBLE:
            return str(node.attr("reason"))
    return None


def make_impossible(region: Graph, reason: str, origin: Iterable[str]) -> None:
    """Replaces what ``region`` holds by a node that says why it cannot run."""
    types = [value.type for value in region.outputs]
    node = region.add(
        IMPOSSIBLE, [], {"reason": reason}, types=types, n_outputs=len(types), origin=origin
    )
    for index, value in enumerate(node.outputs):
        region.set_output(index, value)
    region.remove_dead()


def certain(condition: Value) -> bool | None:
    """The condition of an If, where it is known before the run."""
    if condition.constant is not None:
        array = condition.constant.array
        return bool(array.reshape(())) if array.size == 1 else None
    elements = condition.elements
    if elements is None or len(elements) != 1 or not isinstance(elements[0], int):
        return None
    return bool(elements[0])


def _infer_if(ctx: InferContext) -> Sequence[Type]:
    then, other = region_attr(ctx, "then_branch"), region_attr(ctx, "else_branch")
    _count(ctx, len(other.outputs), len(then.outputs), "the number of outputs of its else_branch")
    regions = (then, other)
    left = outward(ctx, regions, [v.type for v in then.outputs])
    right = outward(ctx, regions, [v.type for v in other.outputs])
    condition = known(ctx, 0)
    chosen = None if condition is None or condition.size != 1 else condition.ravel()[0]
    reasons = (impossible(then), impossible(other))
    if isinstance(chosen, int):
        # Only one branch can run. The other may not even fit the sizes at hand.
        reason = reasons[0 if chosen else 1]
        if reason is not None:
            ctx.fail(reason)
        return left if chosen else right
    if reasons[0] is not None and reasons[1] is not None:
        ctx.fail(reasons[0])
    if reasons[0] is not None or reasons[1] is not None:
        return left if reasons[0] is None else right
    visible = _visible(ctx, regions)
    for index, (a, b) in enumerate(zip(then.outputs, other.outputs, strict=True)):
        if a.elements is not None and a.elements == b.elements:
            names = {name for dim in a.elements for name in symbols(dim)}
            if names <= visible:
                ctx.set_elements(a.elements, index)
    return [merge_dims(ctx, a, b, "if") for a, b in zip(left, right, strict=True)]


def _evaluate_if(ctx: EvalContext, condition: Array) -> tuple[Any, ...]:
    if condition.size != 1:
        ctx.fail(f"its condition has {condition.size} elements, not 1")
    branch = "then_branch" if bool(condition.reshape(())) else "else_branch"
    return tuple(ctx.run_region(region_attr(ctx, branch), []))


register(
    OpDef(
        "If",
        inputs=("cond",),
        outputs=("outputs*",),
        attrs=attr_specs(else_branch=("g", REQUIRED), then_branch=("g", REQUIRED)),
        infer=_infer_if,
        evaluate=_evaluate_if,
        traits=_CONTROL,
    )
)


# ---- Loop ----


def _always_true(body: Graph, value: Value) -> bool:
    """True when a Loop's condition, as its body yields it, can only be what the body was given
    or the constant true."""
    while value.producer is not None and value.producer.is_a("Identity"):
        source = value.producer.inputs[0]
        assert source is not None
        value = source
    if value.constant is not None:
        return bool(value.constant.array.all())
    return value is body.inputs[1]


def _trip_count(ctx: InferContext, body: Graph) -> Dim:
    """How often the loop runs: a fresh symbol unless its limit alone decides."""
    limit = ctx.elements(0)
    start = ctx.constant(1)
    begins = not ctx.has(1) or (start is not None and bool(start.all()))
    runs_on = not ctx.has(1) or _always_true(body, body.outputs[0])
    if limit is not None and len(limit) == 1 and begins and runs_on:
        return dim_max(limit[0], 0)
    return ctx.fresh("trips")


def _infer_loop(ctx: InferContext) -> Sequence[Type]:
    body = region_attr(ctx, "body")
    carried = max(len(ctx.inputs) - 2, 0)
    _count(ctx, len(body.inputs), 2 + carried, "the number of inputs of its body")
    if len(body.outputs) < 1 + carried:
        ctx.fail(f"its body has {len(body.outputs)} outputs, fewer than {1 + carried}")
    pairs = zip(body.inputs[2:], body.outputs[1 : 1 + carried], strict=True)
    types = [merge_dims(ctx, a.type, b.type, "loop") for a, b in pairs]
    scans = [_tensor(ctx, v) for v in body.outputs[1 + carried :]]
    outer = outward(ctx, (body,), [*types, *scans])
    count = _trip_count(ctx, body) if scans else 0
    return [*outer[:carried], *(_stacked(t, count) for t in outer[carried:])]


def _tensor(ctx: InferContext, value: Value) -> TensorType:
    if not isinstance(value.type, TensorType):
        ctx.fail(f"the scan output '{value.name}' is {value.type}, not a tensor")
    return value.type


def _stacked(found: Type, count: Dim, axis: int = 0) -> Type:
    assert isinstance(found, TensorType)
    if found.shape is None:
        return found
    dims = list(found.shape)
    dims.insert(axis, count)
    return TensorType(found.dtype, tuple(dims))


def _stack(items: Sequence[Array], like: Value, axis: int = 0) -> Array:
    """Scan outputs of all iterations in one array; of none, an empty one."""
    if items:
        return np.stack(items, axis=axis)
    found = like.tensor
    dims = [dim if isinstance(dim, int) else 0 for dim in found.shape or ()]
    dims.insert(axis, 0)
    return np.zeros(dims, dtype=found.dtype.numpy)


def _evaluate_loop(
    ctx: EvalContext, limit: Array | None = None, condition: Array | None = None, *carried: Any
) -> tuple[Any, ...]:
    body = region_attr(ctx, "body")
    if limit is None and condition is None:
        ctx.fail("it has neither a limit nor a condition: it would never end")
    state = list(carried)
    scans: list[list[Array]] = [[] for _ in body.outputs[1 + len(state) :]]
    running = condition is None or bool(condition.reshape(()))
    trip, last = 0, None if limit is None else int(limit.reshape(()))
    while running and (last is None or trip < last):
        results = ctx.run_region(body, [np.array(trip, np.int64), np.array(True), *state])
        # Without a condition operand, what the body says about it is ignored.
        running = condition is None or bool(np.asarray(results[0]).reshape(()))
        state = results[1 : 1 + len(state)]
        for items, item in zip(scans, results[1 + len(state) :], strict=True):
            items.append(item)
        trip += 1
    outputs = body.outputs[1 + len(state) :]
    return (*state, *(_stack(items, v) for items, v in zip(scans, outputs, strict=True)))


register(
    OpDef(
        "Loop",
        inputs=("M?", "cond?", "v_initial*"),
        outputs=("v_final_and_scan_outputs*",),
        attrs=attr_specs(body=("g", REQUIRED)),
        infer=_infer_loop,
        evaluate=_evaluate_loop,
        traits=_CONTROL,
    )
)


# ---- Scan ----


def _list_attr(ctx: InferContext | EvalContext, name: str, count: int) -> tuple[int, ...]:
    given = ctx.attr(name)
    if given is None:
        return (0,) * count
    if len(given) != count:
        ctx.fail(f"{name} has {len(given)} entries, not {count}")
    return tuple(given)


def _scan_length(ctx: InferContext, states: int, axes: Sequence[int]) -> Dim:
    length: Dim | None = None
    for index, axis in enumerate(axes):
        shape = ctx.shape(states + index)
        if shape is not None:
            dim = shape[ctx.axis(axis, len(shape))]
            length = dim if length is None else unify(ctx, length, dim, "scanned sizes")
    return ctx.fresh("trips") if length is None else length


def _infer_scan(ctx: InferContext) -> Sequence[Type]:
    body = region_attr(ctx, "body")
    scanned = ctx.attr("num_scan_inputs")
    states = len(ctx.inputs) - scanned
    if scanned < 1 or states < 0:
        ctx.fail(f"num_scan_inputs is {scanned}, but it has {len(ctx.inputs)} operands")
    _count(ctx, len(body.inputs), len(ctx.inputs), "the number of inputs of its body")
    if len(body.outputs) < states:
        ctx.fail(f"its body has {len(body.outputs)} outputs, fewer than {states}")
    length = _scan_length(ctx, states, _list_attr(ctx, "scan_input_axes", scanned))
    pairs = zip(body.inputs[:states], body.outputs[:states], strict=True)
    types = [merge_dims(ctx, a.type, b.type, "scan") for a, b in pairs]
    scans = [_tensor(ctx, v) for v in body.outputs[states:]]
    axes = _list_attr(ctx, "scan_output_axes", len(scans))
    outer = outward(ctx, (body,), [*types, *scans])
    result = list(outer[:states])
    for found, axis in zip(outer[states:], axes, strict=True):
        assert isinstance(found, TensorType)
        rank = found.rank
        result.append(found if rank is None else _stacked(found, length, ctx.axis(axis, rank + 1)))
    return result


def _evaluate_scan(ctx: EvalContext, *operands: Any) -> tuple[Any, ...]:
    body = region_attr(ctx, "body")
    scanned = ctx.attr("num_scan_inputs")
    states = len(operands) - scanned
    state, inputs = list(operands[:states]), operands[states:]
    in_axes = _list_attr(ctx, "scan_input_axes", scanned)
    backward = _list_attr(ctx, "scan_input_directions", scanned)
    lengths = {x.shape[axis] for x, axis in zip(inputs, in_axes, strict=True)}
    if len(lengths) != 1:
        ctx.fail(f"its operands are scanned over different sizes {sorted(lengths)}")
    (length,) = lengths
    lanes = [
        np.flip(np.moveaxis(x, axis, 0), 0) if flip else np.moveaxis(x, axis, 0)
        for x, axis, flip in zip(inputs, in_axes, backward, strict=True)
    ]
    outputs = body.outputs[states:]
    scans: list[list[Array]] = [[] for _ in outputs]
    for step in range(length):
        results = ctx.run_region(body, [*state, *(np.asarray(lane[step]) for lane in lanes)])
        state = results[:states]
        for items, item in zip(scans, results[states:], strict=True):
            items.append(item)
    out_axes = _list_attr(ctx, "scan_output_axes", len(outputs))
    prepend = _list_attr(ctx, "scan_output_directions", len(outputs))
    stacked = []
    for items, value, axis, reverse in zip(scans, outputs, out_axes, prepend, strict=True):
        rank = items[0].ndim if items else len(static_shape(value.shape) or ())
        place = axis if axis >= 0 else axis + rank + 1
        stacked.append(_stack(items[::-1] if reverse else items, value, place))
    return (*state, *stacked)


register(
    OpDef(
        "Scan",
        inputs=("initial_state_and_scan_inputs*",),
        outputs=("final_state_and_scan_outputs*",),
        attrs=attr_specs(
            body=("g", REQUIRED),
            num_scan_inputs=("i", REQUIRED),
            scan_input_axes="ints",
            scan_input_directions="ints",
            scan_output_axes="ints",
            scan_output_directions="ints",
        ),
        infer=_infer_scan,
        evaluate=_evaluate_scan,
        traits=_CONTROL,
    )
)
