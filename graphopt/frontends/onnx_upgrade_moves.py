"""Upgrades of ops that move data: attributes that became operands, mostly."""

from __future__ import annotations

from graphopt.frontends.onnx_draft import Draft, step
from graphopt.ir import DType, Value

__all__ = ["drop_empty_operands"]


@step(4, "Concat")
def concat_4(draft: Draft) -> None:
    """The axis had a default."""
    draft.attrs.setdefault("axis", 1)


@step(5, "Reshape")
def reshape_5(draft: Draft) -> None:
    """The shape was an attribute."""
    draft.attrs.pop("consumed_inputs", None)
    draft.attr_to_input("shape", 1, required=True)


@step(13, "Squeeze")
def squeeze_13(draft: Draft) -> None:
    """The axes were an attribute."""
    draft.attr_to_input("axes", 1)


@step(13, "Unsqueeze")
def unsqueeze_13(draft: Draft) -> None:
    """The axes were an attribute."""
    draft.attr_to_input("axes", 1, required=True)


@step(10, "Slice")
def slice_10(draft: Draft) -> None:
    """Starts, ends and axes were attributes."""
    draft.attr_to_input("starts", 1, required=True)
    draft.attr_to_input("ends", 2, required=True)
    draft.attr_to_input("axes", 3)


@step(2, "Split")
def split_2(draft: Draft) -> None:
    """The sizes could be an operand, as they are again from opset 13 on."""
    sizes = draft.input(1)
    if sizes is not None:
        if sizes.constant is None:
            draft.unsupported("sizes that are computed")
        draft.attrs["split"] = tuple(int(x) for x in sizes.constant.array.ravel())
        draft.inputs = draft.inputs[:1]


@step(13, "Split")
def split_13(draft: Draft) -> None:
    """The sizes were an attribute."""
    draft.attr_to_input("split", 1)


@step(18, "Split")
def split_18(draft: Draft) -> None:
    """The number of equal parts was that of the outputs; now it is stated."""
    if draft.input(1) is None:
        draft.attrs["num_outputs"] = draft.n_outputs


@step(2, "Pad")
def pad_2(draft: Draft) -> None:
    """An attribute got another name."""
    paddings = draft.pop_ints("paddings")
    if paddings is not None:
        draft.attrs["pads"] = paddings


@step(11, "Pad")
def pad_11(draft: Draft) -> None:
    """Pads and value were attributes."""
    draft.attr_to_input("pads", 1, required=True)
    value = draft.pop_float("value", 0.0)
    if value != 0.0:
        draft.set_input(2, draft.scalar(value, draft.tensor(0).dtype, "value"))


@step(6, "Tile")
def tile_6(draft: Draft) -> None:
    """One axis was repeated, named by an operand."""
    rank = draft.rank(0)
    tiles, axis = draft.value(1), draft.value(2).constant
    if axis is None or axis.numel != 1:
        draft.unsupported("an axis that is computed")
    at = draft.axis(int(axis.array.ravel()[0]), rank)
    b = draft.build
    count = b.Reshape(b.Cast(tiles, to=int(DType.I64)), draft.ints([1]))
    parts: list[Value] = [count]
    if at:
        parts.insert(0, draft.ints([1] * at))
    if at < rank - 1:
        parts.append(draft.ints([1] * (rank - 1 - at)))
    draft.inputs = [draft.value(0), b.Concat(*parts, axis=0) if len(parts) > 1 else count]


@step(10, "TopK")
def top_k_10(draft: Draft) -> None:
    """The count was an attribute."""
    k = draft.attrs.pop("k", None)
    if not isinstance(k, int):
        draft.fail("attribute 'k' is required")
    draft.set_input(1, draft.ints([k], "k"))


@step(1000, "Scatter")
def scatter(draft: Draft) -> None:
    """The op was renamed; files keep the old name beyond the opset that has it."""
    draft.op = "ScatterElements"
    draft.version = 11


@step(1000, "Upsample")
def upsample_late(draft: Draft) -> None:
    """Upsample is gone from opset 10 on, but files still use it with its form of opset 9."""
    draft.op = "Resize"
    draft.version = 10
    x, scales = draft.value(0), draft.value(1)
    draft.inputs = [x, scales]


def _empty(value: Value | None) -> bool:
    if value is None or value.constant is None:
        return False
    return value.constant.numel == 0


def drop_empty_operands(draft: Draft) -> None:
    """Resize operands that are empty constants stand for absent ones."""
    for index in (1, 2, 3):
        if _empty(draft.input(index)):
            draft.inputs[index] = None
