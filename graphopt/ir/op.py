"""What an operator is: its schema, type inference, evaluation, traits and cost."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from graphopt.errors import ModelError, OperandError
from graphopt.ir.dim import Dim
from graphopt.ir.dtype import DType
from graphopt.ir.types import TensorType, Type

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph, Node, Value

__all__ = [
    "REQUIRED",
    "AttrSpec",
    "Cost",
    "EvalContext",
    "InferContext",
    "OpDef",
    "Trait",
    "opaque_op",
    "resolve_op",
    "set_resolver",
]

Array = np.ndarray[Any, Any]


class _Required(enum.Enum):
    REQUIRED = 0


REQUIRED = _Required.REQUIRED


class Trait(enum.Enum):
    """Facts that passes ask about instead of naming ops."""

    POINTWISE = "pointwise"  # output element i depends on (broadcast) input elements i alone
    COMMUTATIVE = "commutative"  # operands 0 and 1 may be swapped
    REDUCTION = "reduction"  # folds axes given by `axes`
    MOVEMENT = "movement"  # output elements are copies of input elements (of operand 0)
    SHAPE_ONLY = "shape-only"  # reads the shape of operand 0, not its contents
    NONDETERMINISTIC = (
        "nondeterministic"  # may give other results each time: never folded or merged
    )
    CONTROL_FLOW = "control-flow"  # runs its regions
    CONSTANT = "constant"  # yields a constant from attributes


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """An attribute: its kind (`i f s t g ints floats strings type`) and default.

    ``default`` is REQUIRED when the attribute must be there, None when absence has a meaning.
    """

    kind: str
    default: Any = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one node: floating-point operations and bytes read plus written."""

    flops: Dim
    bytes: Dim


@dataclass(frozen=True, eq=False)
class OpDef:
    """One operator. Compared by identity; get it by name from ``graphopt.ops.get``.

    ``inputs`` and ``outputs`` name the operands. A name that ends in ``?`` is optional, one that
    ends in ``*`` is variadic (last only). ``infer(ctx)`` returns the output type, or a tuple of
    types when there are several outputs. ``evaluate(ctx, *inputs)`` computes numpy arrays (absent
    operands are None): these are the semantics of record. ``cost(node)`` defaults to bytes moved.
    """

    name: str
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("Y",)
    attrs: Mapping[str, AttrSpec] = field(default_factory=lambda: MappingProxyType({}))
    infer: Callable[[InferContext], Type | Sequence[Type]] | None = None
    evaluate: Callable[..., Any] | None = None
    traits: frozenset[Trait] = frozenset()
    cost: Callable[[Node], Cost] | None = None
    opaque: bool = False

    def __post_init__(self) -> None:
        required = tuple(i for i, n in enumerate(self.inputs) if not n.endswith(("?", "*")))
        object.__setattr__(self, "required_inputs", required)
        object.__setattr__(self, "min_inputs", required[-1] + 1 if required else 0)
        variadic = bool(self.inputs) and self.inputs[-1].endswith("*")
        object.__setattr__(self, "max_inputs", None if variadic else len(self.inputs))
        many = bool(self.outputs) and self.outputs[-1].endswith("*")
        object.__setattr__(self, "max_outputs", None if many else len(self.outputs))

    min_inputs: int = field(init=False, default=0)
    required_inputs: tuple[int, ...] = field(init=False, default=())
    max_inputs: int | None = field(init=False, default=None)
    max_outputs: int | None = field(init=False, default=None)

    @property
    def qualified(self) -> str:
        """``domain::Name``, or the bare name in the ONNX domain."""
        return f"{self.domain}::{self.name}" if self.domain else self.name

    def has(self, trait: Trait) -> bool:
        """True when the op has that trait."""
        return trait in self.traits

    def __repr__(self) -> str:
        return f"OpDef({self.qualified})"


class _AttrReader:
    """Attribute access with the defaults of the op's schema."""

    op: OpDef
    attrs: Mapping[str, Any]

    def attr(self, name: str) -> Any:
        """The attribute, or its schema default (None when it has none)."""
        value = self.attrs.get(name)
        if value is not None:
            return value
        spec = self.op.attrs.get(name)
        if spec is None:
            raise KeyError(f"{self.op.qualified} has no attribute '{name}'")
        if spec.default is REQUIRED:
            raise ModelError(f"{self.op.qualified}: attribute '{name}' is required")
        return spec.default


class InferContext(_AttrReader):
    """What type inference sees of a node: operand types, contents where known, attributes."""

    def __init__(
        self,
        graph: Graph,
        op: OpDef,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, Any],
        n_outputs: int,
        label: str = "",
    ) -> None:
        self.graph = graph
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.n_outputs = n_outputs
        self.label = label
        self.elements_out: dict[int, tuple[Dim, ...]] = {}

    def fail(self, cause: str) -> NoReturn:
        """Raises OperandError that names the node."""
        where = f" '{self.label}'" if self.label else ""
        raise OperandError(f"node{where} ({self.op.qualified}): {cause}")

    def has(self, index: int) -> bool:
        """True when operand ``index`` is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """Operand ``index``; fails when it is absent."""
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            self.fail(f"operand {index} is missing")
        return value

    def type(self, index: int) -> Type:
        """Type of operand ``index``."""
        return self.value(index).type

    def tensor(self, index: int) -> TensorType:
        """Type of operand ``index``, which must be a tensor."""
        found = self.type(index)
        if not isinstance(found, TensorType):
            self.fail(f"operand {index} is {found}, not a tensor")
        return found

    def dtype(self, index: int) -> DType:
        """Element type of operand ``index``."""
        return self.tensor(index).dtype

    def shape(self, index: int) -> tuple[Dim, ...] | None:
        """Shape of operand ``index``, None when its rank is unknown."""
        return self.tensor(index).shape

    def rank(self, index: int) -> int | None:
        """Rank of operand ``index``, None when unknown."""
        return self.tensor(index).rank

    def constant(self, index: int) -> Array | None:
        """Contents of operand ``index`` when it is a constant, else None."""
        if not self.has(index):
            return None
        constant = self.value(index).constant
        return constant.array if constant is not None and constant.available else None

    def elements(self, index: int) -> tuple[Dim, ...] | None:
        """Flattened contents of an integer operand as sizes, where every one is known."""
        return self.value(index).elements if self.has(index) else None

    def set_elements(self, dims: Sequence[Dim], index: int = 0) -> None:
        """Declares the (integer) contents of output ``index``."""
        self.elements_out[index] = tuple(dims)

    def axis(self, value: int, rank: int) -> int:
        """``value`` as a non-negative axis below ``rank``; fails when it is out of range."""
        if not -rank <= value < rank:
            self.fail(f"axis {value} is out of range for rank {rank}")
        return value + rank if value < 0 else value

    def fresh(self, hint: str = "u") -> Dim:
        """A new symbol: a size that only the run knows."""
        return self.graph.fresh_symbol(hint)


class EvalContext(_AttrReader):
    """What evaluation sees beside the arrays: attributes, and a way to run regions."""

    def __init__(
        self,
        op: OpDef,
        attrs: Mapping[str, Any],
        n_outputs: int,
        label: str = "",
        run_region: Callable[[Graph, Sequence[Any]], list[Any]] | None = None,
        wanted: Sequence[bool] | None = None,
        node: Node | None = None,
    ) -> None:
        self.op = op
        self.attrs = attrs
        self.n_outputs = n_outputs
        self.label = label
        self.wanted = tuple(wanted) if wanted is not None else (True,) * n_outputs
        self.node = node
        self._run_region = run_region

    def run_region(self, region: Graph, args: Sequence[Any]) -> list[Any]:
        """Values of ``region``'s outputs for these inputs; captured values are in scope."""
        if self._run_region is None:
            self.fail("its regions can only run inside a graph")
        return self._run_region(region, args)

    def fail(self, cause: str) -> NoReturn:
        """Raises ModelError that names the node."""
        where = f" '{self.label}'" if self.label else ""
        raise ModelError(f"node{where} ({self.op.qualified}): {cause}")


def opaque_op(name: str, domain: str) -> OpDef:
    """An op that graphopt knows nothing about: it passes through untouched."""
    return OpDef(
        name,
        domain,
        inputs=("inputs*",),
        outputs=("outputs*",),
        attrs=MappingProxyType({}),
        opaque=True,
    )


_resolver: Callable[[str, str], OpDef] | None = None


def set_resolver(resolver: Callable[[str, str], OpDef]) -> None:
    """Tells the IR how names become ops: ``resolver(name, domain)``."""
    global _resolver
    _resolver = resolver


def resolve_op(name: str, domain: str = "") -> OpDef:
    """The op of that name; an opaque one when nobody knows it."""
    if _resolver is None:
        raise RuntimeError("no ops are registered: import graphopt.ops first")
    return _resolver(name, domain)
