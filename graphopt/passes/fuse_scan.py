"""A Scan whose body is one step of a recurrence is the recurrence over the sequence.

``Scan(h, c, xs) {LSTM(x, w, r, b, h, c) of one step}  ->  LSTM(xs, w, r, b, h, c)``, and GRU alike;
what the body yields of every step is Y. The body is nothing but that step, with an axis of size 1
put in front of its operands and taken off its results, as ``fuse-recurrent`` leaves it.

One sequence along its first axis is read, forwards, or backwards with what is yielded put backwards
too; weights are those of the graph around the body.

Sound: the definition of both ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir import Builder, Graph, Node, Value
from graphopt.rewrite import Match, NodePattern, PatternOps, Refusal, Rule, RulePass

__all__ = ["FuseScan"]

# By op: where the operands of a state are, and the outputs that hold their new values.
_STATES = {"LSTM": ((5, 1), (6, 2)), "GRU": ((5, 1),)}


@dataclass
class _Step:
    """The step in a body: by state of the Scan, which state of the step it is (0 or 1)."""

    node: Node
    states: list[int]
    reverse: bool


class FuseScanOfSteps(Rule):
    """``Scan {LSTM of one step}  ->  LSTM``."""

    def pattern(self, op: PatternOps) -> NodePattern:
        """The body is looked at by hand."""
        return op.Scan(op.rest("operands"), _bind="scan")

    def check(self, m: Match) -> Refusal | None:
        """A body of one step and views of its operands and results."""
        found = _step(m.root)
        return found if isinstance(found, Refusal) else None

    def rewrite(self, op: Builder, m: Match) -> list[Value]:
        """The op over the sequence, its axis of directions taken off."""
        step = _step(m.root)
        assert isinstance(step, _Step)
        body: Graph = m.root.attr("body")
        op.origin = op.origin.union(*(node.origin for node in body))
        operands: list[Value | None] = [m.root.inputs[-1]]
        for value in step.node.inputs[1:4]:
            operands.append(None if value is None else _outside(op, value))
        places = _STATES[step.node.op.name]
        initial: list[Value | None] = [None] * len(places)
        for value, state in zip(m.root.inputs, step.states, strict=False):
            assert value is not None
            initial[state] = op.Unsqueeze(value, (0,))
        outputs = op.op(
            step.node.op.name,
            *(*operands, None, *initial),
            _outputs=len(places) + 1,
            **{**step.node.attrs, "direction": "reverse" if step.reverse else None},
        )
        results: list[Value] = [op.Squeeze(outputs[places[s][1]], (0,)) for s in step.states]
        if len(m.root.outputs) > len(results):
            every = op.Squeeze(outputs[0], (1,))
            results += [every] * (len(m.root.outputs) - len(results))
        return results


def _outside(op: Builder, value: Value) -> Value:
    """A constant of the body, or a value from around it, in the graph of the Scan."""
    return value if value.constant is None else op.constant(value.constant, value.name)


def _step(node: Node) -> _Step | Refusal:
    body: Graph = node.attr("body")
    steps = [inner for inner in body if inner.op.name in _STATES and not inner.op.domain]
    if len(steps) != 1 or int(node.attr("num_scan_inputs")) != 1:
        return Refusal(f"its body holds {len(steps)} recurrences, not one over one sequence", node)
    for name in ("scan_input_axes", "scan_output_axes"):
        if any(int(axis) for axis in node.attr(name) or ()):
            return Refusal(f"{name} are {tuple(node.attr(name))}", node)
    turns = {int(d) for k in ("input", "output") for d in _directions(node, k)}
    if len(turns) > 1:
        return Refusal("it reads in one direction and yields in the other", node)
    return _matched(node, body, steps[0], turns == {1})


def _directions(node: Node, kind: str) -> tuple[int, ...]:
    given = node.attr(f"scan_{kind}_directions")
    if given is not None:
        return tuple(given)
    states = len(node.inputs) - 1
    return (0,) * (1 if kind == "input" else len(node.outputs) - states)


def _matched(node: Node, body: Graph, step: Node, reverse: bool) -> _Step | Refusal:
    *variables, slice_ = body.inputs
    if _behind(step.input(0), "Unsqueeze") is not slice_ or step.attr("direction") == "reverse":
        return Refusal(lambda: f"{step!r} does not read the sequence forwards", step)
    if step.input(4) is not None or (len(step.inputs) > 7 and step.input(7) is not None):
        return Refusal(lambda: f"{step!r} has lengths or peepholes", step)
    if any(v is not None and v.constant is None and v.graph is body for v in step.inputs[1:4]):
        return Refusal(lambda: f"the weights of {step!r} change from step to step", step)
    places = _STATES[step.op.name]
    states = []
    for variable, result in zip(variables, body.outputs, strict=False):
        state = [
            index
            for index, (operand, output) in enumerate(places)
            if _behind(step.input(operand), "Unsqueeze") is variable
            and _behind(result, "Squeeze") is step.outputs[output]
        ]
        if len(state) != 1:
            return Refusal(f"%{variable.name} is no state of {step!r}", step)
        states.append(state[0])
    if len(states) != len(places):
        return Refusal(lambda: f"{step!r} has {len(places)} states, the Scan {len(states)}", step)
    for result in body.outputs[len(states) :]:
        if _behind(result, "Squeeze") is not step.outputs[1]:
            return Refusal(f"%{result.name} is not the state after a step", step)
    if any(inner is not step and inner.op.name not in ("Squeeze", "Unsqueeze") for inner in body):
        return Refusal("its body does more than one step", node)
    return _Step(step, states, reverse)


def _behind(value: Value | None, view: str) -> Value | None:
    """``x`` where ``value`` is ``x`` with a first axis of size 1 put in or taken off."""
    node = None if value is None else value.producer
    if node is None or not node.is_a(view):
        return None
    axes = node.input(1)
    if axes is None or axes.constant is None or axes.constant.array.ravel().tolist() != [0]:
        return None
    return node.input(0)


@dataclass(frozen=True)
class FuseScan(RulePass):
    """``Scan`` of recurrent steps ``->`` the recurrence."""

    name: ClassVar[str] = "fuse-scan"

    def rules(self, graph: Graph) -> list[Rule]:
        """The one rule."""
        return [FuseScanOfSteps()]
