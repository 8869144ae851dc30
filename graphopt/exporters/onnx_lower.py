"""Steps that bring a node of the newest opset back to the form that an older opset has for it.

The inverse of the frontend's upgrade steps: operands that are constants become the attributes that
they were. A step that cannot keep the meaning says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from graphopt.ir import Constant, DType, Node, Value, static_shape

__all__ = ["Form", "LowerError", "Operand", "lowering_steps"]

Operand = Value | Constant | None


class LowerError(Exception):
    """Why an older opset cannot say what a node means."""


@dataclass
class Form:
    """One node as it will be written: ``operands`` may be constants that no value holds."""

    node: Node
    op: str
    operands: list[Operand]
    attrs: dict[str, Any]

    def fail(self, cause: str) -> NoReturn:
        """Raises LowerError."""
        raise LowerError(cause)

    def operand(self, index: int) -> Operand:
        """Operand ``index``, None when absent."""
        return self.operands[index] if index < len(self.operands) else None

    def array(self, index: int, what: str) -> Any:
        """The contents of operand ``index``, which must be a constant; None when it is absent."""
        value = self.operand(index)
        constant = value.constant if isinstance(value, Value) else value
        if value is not None and constant is None:
            self.fail(f"its {what} are computed")
        return None if constant is None else constant.array

    def ints(self, index: int, what: str) -> list[int] | None:
        """A constant operand as integers."""
        array = self.array(index, what)
        return None if array is None else [int(x) for x in array.ravel()]

    def input_to_attr(self, index: int, name: str, *, last: bool = True) -> None:
        """Operand ``index`` becomes the attribute ``name``, a list of integers."""
        values = self.ints(index, name)
        if values is not None:
            self.attrs[name] = tuple(values)
        if last:
            del self.operands[index:]

    def drop(self, name: str, *harmless: Any) -> None:
        """Takes an attribute out that has no effect when it is one of ``harmless``."""
        if name in self.attrs:
            value = self.attrs.pop(name)
            if value not in harmless:
                self.fail(f"attribute '{name}' is {value}")


Step = Callable[[Form], None]
_STEPS: dict[str, list[tuple[int, Step]]] = {}


def lowering_steps(op: str) -> Sequence[tuple[int, Step]]:
    """(version, step): below opset ``version`` a node of ``op`` has another form; newest first."""
    return _STEPS.get(op, ())


def _below(version: int, *ops: str) -> Callable[[Step], Step]:
    def register(function: Step) -> Step:
        for op in ops:
            entries = _STEPS.setdefault(op, [])
            entries.append((version, function))
            entries.sort(key=lambda entry: -entry[0])
        return function

    return register


@_below(13, "Squeeze", "Unsqueeze")
def _axes(form: Form) -> None:
    form.input_to_attr(1, "axes")


@_below(13, "ReduceSum")
@_below(18, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
        "ReduceMin", "ReduceProd", "ReduceSumSquare")  # fmt: skip
def _reduced_axes(form: Form) -> None:
    axes = form.ints(1, "axes")
    if form.attrs.pop("noop_with_empty_axes", 0) and not axes:
        form.fail("without axes it does nothing")
    del form.operands[1:]
    if axes:
        form.attrs["axes"] = tuple(axes)


@_below(18, "Split")
def _split_parts(form: Form) -> None:
    count = form.attrs.pop("num_outputs", None)
    axis, whole = form.attrs.get("axis", 0), form.node.input(0)
    shape = whole.shape if whole is not None else None
    size = shape[axis] if shape is not None else None
    if count is not None and isinstance(size, int) and size % count:
        part = -(-size // count)
        sizes = [min(part, size - k * part) for k in range(count)]
        form.operands[1:] = [Constant(np.array(sizes, np.int64))]


@_below(13, "Split")
def _split_sizes(form: Form) -> None:
    form.input_to_attr(1, "split")


@_below(13, "Softmax", "LogSoftmax", "Hardmax")
def _rows(form: Form) -> None:
    value = form.node.input(0)
    shape = value.shape if value is not None else None
    if shape is None:
        form.fail("the rank of its operand is not known")
    axis = form.attrs.get("axis", -1)
    axis += len(shape) if axis < 0 else 0
    if any(dim != 1 for dim in shape[axis + 1 :]):
        form.fail("older opsets normalise all axes from its axis on")
    form.attrs["axis"] = axis


@_below(13, "Resize")
def _sizes(form: Form) -> None:
    # Operands 1 and 2 could not be absent, but empty.
    for index in (1, 2):
        if index < len(form.operands) and form.operands[index] is None:
            form.operands[index] = Constant(np.empty(0, np.float32))


@_below(11, "Resize")
def _factors(form: Form) -> None:
    mode = form.attrs.get("mode", "nearest")
    if form.attrs.pop("coordinate_transformation_mode", "half_pixel") != "asymmetric":
        form.fail("older opsets divide coordinates by the factor")
    rounding = form.attrs.pop("nearest_mode", "round_prefer_floor")
    scales = form.array(2, "scales")
    if scales is None or not scales.size or form.operand(3) is not None:
        form.fail("older opsets take factors, not sizes")
    wanted = "floor" if (scales >= 1).all() else "ceil"
    if mode == "nearest" and rounding != wanted:
        form.fail(f"older opsets do not round {rounding}")
    if mode == "nearest" and not ((scales >= 1).all() or (scales <= 1).all()):
        form.fail("older opsets round up to shrink and down to grow")
    form.operands = [form.operands[0], form.operands[2]]
    if set(form.attrs) - {"mode"}:
        form.fail(f"attributes {sorted(form.attrs)}")


@_below(10, "Resize")
def _upsample(form: Form) -> None:
    scales = form.array(1, "scales")
    if (scales < 1).any():
        form.fail("older opsets only grow")
    form.op = "Upsample"


@_below(20, "GridSample")
def _grid_modes(form: Form) -> None:
    value = form.node.input(0)
    if value is None or value.tensor.rank != 4:
        form.fail("older opsets sample images only")
    mode = form.attrs.get("mode", "linear")
    form.attrs["mode"] = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)


@_below(20, "DFT")
def _dft_axis(form: Form) -> None:
    axis = form.ints(2, "axis")
    del form.operands[2:]
    form.attrs["axis"] = -2 if axis is None else axis[0]
    if form.attrs["axis"] < 0:
        value = form.node.input(0)
        rank = value.tensor.rank if value is not None else None
        if rank is None:
            form.fail("the rank of its operand is not known")
        form.attrs["axis"] += rank


@_below(28, "Mod")
def _truncated(form: Form) -> None:
    if form.node.output.tensor.dtype.is_float and not form.attrs.get("fmod", 0):
        form.fail("older opsets take floats with fmod alone")


@_below(19, "AveragePool")
@_below(22, "MaxPool", "LpPool")
def _last_window(form: Form) -> None:
    """A last window that would start in the padding counts in older opsets."""
    value, result = form.node.input(0), form.node.output.shape
    shape = static_shape(value.shape) if value is not None else None
    if not form.node.attr("ceil_mode") or shape is None or result is None:
        return
    kernel = form.node.attr("kernel_shape")
    axes = len(kernel)
    pads = form.node.attr("pads") or (0,) * (2 * axes)
    strides = form.node.attr("strides") or (1,) * axes
    dilations = form.node.attr("dilations") or (1,) * axes
    for axis in range(axes):
        window = dilations[axis] * (kernel[axis] - 1) + 1
        room = shape[axis + 2] + pads[axis] + pads[axis + axes] - window
        if form.node.attr("auto_pad") in (None, "NOTSET") and (
            result[axis + 2] != -(-room // strides[axis]) + 1
        ):
            form.fail("older opsets count a last window that starts in the padding")


@_below(16, "RoiAlign")
def _roi_align(form: Form) -> None:
    mode = form.attrs.pop("coordinate_transformation_mode", "half_pixel")
    if mode != "output_half_pixel":
        form.fail("older opsets do not shift by half a pixel")


@_below(14, "Reshape")
def _no_zeros(form: Form) -> None:
    if form.attrs.pop("allowzero", 0):
        sizes = form.ints(1, "sizes")
        if sizes is None or 0 in sizes:
            form.fail("it takes sizes of 0 as they are")


@_below(18, "Pad")
def _pad_all(form: Form) -> None:
    axes = form.ints(3, "axes")
    del form.operands[3:]
    if axes is None:
        return
    value, pads = form.node.input(0), form.ints(1, "pads")
    rank = value.tensor.rank if value is not None else None
    if rank is None or pads is None:
        form.fail("the rank of its operand is not known")
    full = [0] * (2 * rank)
    for position, axis in enumerate(axes):
        full[axis % rank] = pads[position]
        full[axis % rank + rank] = pads[position + len(axes)]
    form.operands[1] = Constant(np.array(full, np.int64))


@_below(11, "Pad")
def _pad_attrs(form: Form) -> None:
    value = form.array(2, "value")
    form.input_to_attr(1, "pads")
    if value is not None:
        form.attrs["value"] = float(value.reshape(())[()])


@_below(11, "Clip")
def _bounds(form: Form) -> None:
    for index, name in ((1, "min"), (2, "max")):
        bound = form.array(index, "bounds")
        if bound is not None:
            form.attrs[name] = float(bound.reshape(())[()])
            if math.isnan(form.attrs[name]):
                form.fail("a bound is NaN")
        elif form.node.output.tensor.dtype is DType.F64:
            # An absent bound is the extreme of f32 there.
            form.attrs[name] = -math.inf if name == "min" else math.inf
    del form.operands[1:]


@_below(10, "Slice")
def _slice_attrs(form: Form) -> None:
    steps = form.ints(4, "steps")
    if steps is not None and any(step != 1 for step in steps):
        form.fail("older opsets have no steps")
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        form.input_to_attr(index, name, last=False)
    del form.operands[1:]


@_below(10, "TopK")
def _count(form: Form) -> None:
    count = form.ints(1, "count")
    assert count is not None
    form.attrs["k"] = count[0]
    del form.operands[1:]


@_below(11, "TopK")
def _largest(form: Form) -> None:
    form.drop("largest", 1)
    form.drop("sorted", 1)


@_below(12, "Dropout")
def _dropout(form: Form) -> None:
    training = form.array(2, "training mode")
    if training is not None and bool(training.any()):
        form.fail("it trains")
    if len(form.node.outputs) > 1 and form.node.outputs[1].use_count:
        form.fail("its mask is read")
    ratio = form.array(1, "ratio")
    if ratio is not None:
        form.attrs["ratio"] = float(ratio.reshape(())[()])
    del form.operands[1:]
    form.drop("seed", 0)


@_below(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def _broadcast(form: Form) -> None:
    """Operand 1 was stretched to operand 0 if asked, aligned at an axis."""
    left, right = (value.shape if value is not None else None for value in form.node.inputs)
    if left is None or right is None:
        form.fail("the rank of an operand is not known")
    if left == right:
        return
    value = form.operand(1)
    constant = value.constant if isinstance(value, Value) else None
    first, inner = len(left) - len(right), list(right)
    if constant is not None and first >= 0:
        # Axes of size 1 at either end stretch by themselves: the rest is told where it lies.
        while inner and inner[-1] == 1:
            inner.pop()
        while inner and inner[0] == 1:
            inner.pop(0)
            first += 1
        sizes = [dim for dim in inner if isinstance(dim, int)]
        form.operands[1] = Constant(np.ascontiguousarray(constant.array.reshape(sizes)))
        form.attrs["axis"] = first
    if first < 0 or (inner and inner != list(left[first : first + len(inner)])):
        form.fail("older opsets stretch operand 1 alone, and whole axes of it")
    if not inner:
        form.attrs.pop("axis", None)
    form.attrs["broadcast"] = 1


@_below(7, "Gemm")
def _stretched(form: Form) -> None:
    form.attrs["broadcast"] = 1


@_below(7, "BatchNormalization", "Dropout")
def _test_mode(form: Form) -> None:
    form.attrs["is_test"] = 1


@_below(7, "PRelu")
def _slope(form: Form) -> None:
    shapes = [value.shape for value in form.node.inputs if value is not None]
    slope = form.array(1, "slopes")
    if slope.size == 1:
        form.operands[1] = Constant(np.ascontiguousarray(slope.reshape(1)))
    elif shapes[0] is None or slope.ndim != len(shapes[0]) - 1 or slope.size != slope.shape[0]:
        form.fail("older opsets have a slope a channel")
    else:
        form.operands[1] = Constant(np.ascontiguousarray(slope.reshape(-1)))


@_below(11, "Gemm")
def _gemm(form: Form) -> None:
    if form.operand(2) is None:
        dtype = form.node.output.tensor.dtype.numpy
        form.operands[2:] = [Constant(np.zeros(1, dtype))]


@_below(14, "BatchNormalization")
def _inference(form: Form) -> None:
    if form.attrs.pop("training_mode", 0) or len(form.node.outputs) > 1:
        form.fail("it trains")


@_below(11, "ScatterElements")
def _scatter(form: Form) -> None:
    form.drop("reduction", "none")
    form.op = "Scatter"


@_below(11, "OneHot")
def _one_hot(form: Form) -> None:
    indices = form.node.input(0)
    dtype = DType.F32 if indices is None else indices.tensor.dtype
    if not dtype.is_integer or dtype.is_signed:
        form.fail("older opsets do not count from the end")


@_below(15, "Shape")
def _whole_shape(form: Form) -> None:
    value = form.node.input(0)
    rank = value.tensor.rank if value is not None else None
    form.drop("start", 0)
    form.drop("end", rank)


@_below(10, "Dropout")
@_below(9, "BatchNormalization")
def _same_meaning(form: Form) -> None:
    """Older versions differ in what no node of the newest opset uses."""
