"""Which opset to write a graph in, and the form that each node has there.

Our ops have the semantics of the newest opset. An older one will do for a node when lowering steps
(:mod:`graphopt.exporters.onnx_lower`) lead over every change of the op's form or meaning that lies
between, and when its version of the op has the attributes and operands that come out and takes
their types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from graphopt.errors import OptionError, UnsupportedError
from graphopt.exporters.onnx_lower import Form, LowerError, lowering_steps
from graphopt.frontends.onnx_draft import changes
from graphopt.ir import (
    REQUIRED,
    Constant,
    DType,
    Graph,
    Node,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    Value,
)

__all__ = ["Opsets", "acceptor", "choose_opsets"]

# What a graph without a source opset gets at least: every runtime in use reads it.
_FLOOR = 18
_TYPE_NAMES = {
    DType.F32: "float", DType.F64: "double", DType.F16: "float16", DType.BF16: "bfloat16",
    DType.U8: "uint8", DType.I8: "int8", DType.U16: "uint16", DType.I16: "int16",
    DType.I32: "int32", DType.I64: "int64", DType.U32: "uint32", DType.U64: "uint64",
    DType.STRING: "string", DType.BOOL: "bool", DType.C64: "complex64", DType.C128: "complex128",
    DType.F8E4M3FN: "float8e4m3fn", DType.F8E4M3FNUZ: "float8e4m3fnuz",
    DType.F8E5M2: "float8e5m2", DType.F8E5M2FNUZ: "float8e5m2fnuz", DType.U4: "uint4",
    DType.I4: "int4", DType.F4E2M1: "float4e2m1", DType.F8E8M0: "float8e8m0", DType.U2: "uint2",
    DType.I2: "int2", DType.F6E2M3: "float6e2m3", DType.F6E3M2: "float6e3m2",
}  # fmt: skip


@cache
def _history(domain: str) -> dict[str, list[Any]]:
    """Schemas by op, newest first."""
    from onnx import defs

    table: dict[str, list[Any]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == domain:
            table.setdefault(schema.name, []).append(schema)
    for schemas in table.values():
        schemas.sort(key=lambda s: -s.since_version)
    return table


@cache
def _schema(domain: str, op: str, opset: int) -> Any:
    """The version of ``op`` that an opset has, None when it has none."""
    for schema in _history(domain).get(op, ()):
        if schema.since_version <= opset:
            return None if schema.deprecated else schema
    return None


@cache
def _signature(schema: Any) -> tuple[list[tuple[frozenset[str], str]], ...]:
    """(types, option) of the formal operands and results."""
    allowed = {c.type_param_str: frozenset(c.allowed_type_strs) for c in schema.type_constraints}
    return tuple(
        [
            (allowed.get(f.type_str, frozenset({f.type_str})), str(f.option).rpartition(".")[2])
            for f in formals
        ]
        for formals in (schema.inputs, schema.outputs)
    )


def _type_text(type: Type) -> str:
    if isinstance(type, TensorType):
        return f"tensor({_TYPE_NAMES[type.dtype]})"
    if isinstance(type, SequenceType):
        return f"seq({_type_text(type.element)})"
    assert isinstance(type, OptionalType)
    return f"optional({_type_text(type.element)})"


def _takes(schema: Any, form: Form) -> bool:
    """True when this version of the op has the form's attributes, operands and types."""
    if any(name not in schema.attributes for name in form.attrs):
        return False
    sides: tuple[Sequence[Value | Constant | None], ...] = (form.operands, form.node.outputs)
    for formals, values in zip(_signature(schema), sides, strict=True):
        many = bool(formals) and formals[-1][1] == "Variadic"
        if len(values) > len(formals) and not many:
            return False
        for index, value in enumerate(values):
            accepted, option = formals[min(index, len(formals) - 1)]
            if value is None:
                if option != "Optional":
                    return False
            elif _type_text(value.type) not in accepted:
                return False
    required = sum(option == "Single" for _, option in _signature(schema)[0])
    return len(form.operands) >= required


class Opsets:
    """The opset that a graph is written in: what nodes look like there.

    ``versions`` are opsets by domain; those of other domains than ONNX's own grow as nodes ask.
    """

    def __init__(self, version: int) -> None:
        self.versions: dict[str, int] = {"": version}
        # Nodes of one op, with operands of the same types, look alike but for their attributes.
        self._plain: set[tuple[Any, ...]] = set()

    @property
    def version(self) -> int:
        """The opset of the ONNX domain."""
        return self.versions[""]

    def form(self, node: Node, version: int | None = None) -> Form | str:
        """What ``node`` is in opset ``version``; why there is no such form."""
        version = self.version if version is None else version
        key = _key(node, version)
        operands, attrs = list(node.inputs), dict(node.attrs)
        form = Form(node, node.op.name, operands, attrs)  # type: ignore[arg-type]
        if key in self._plain:
            return form
        domain, name = node.op.domain, node.op.name
        steps = [s for s in lowering_steps(name) if s[0] > version] if not domain else []
        for change in changes(domain, name):
            if change > version and all(change != at for at, _ in steps):
                return f"opset {change} changed its form"
        try:
            for _, step in steps:
                step(form)
        except LowerError as error:
            return str(error)
        schema = _schema(domain, form.op, version)
        if schema is None:
            return f"it has no {form.op}"
        _drop_defaults(form, schema)
        while form.operands and form.operands[-1] is None:
            form.operands.pop()
        if not _takes(schema, form):
            return "it lacks attributes, operands or types of it"
        if not steps and len(form.attrs) == len(node.attrs):
            self._plain.add(key)
        return form


def _key(node: Node, version: int) -> tuple[Any, ...]:
    types = tuple(
        [
            None if v is None else v.type.dtype if isinstance(v.type, TensorType) else v.type
            for v in (*node.inputs, *node.outputs)
        ]
    )
    return (node.op, version, len(node.outputs), types, tuple(node.attrs))


def _drop_defaults(form: Form, schema: Any) -> None:
    """Takes out what an older version lacks and what says nothing."""
    for name in [n for n in form.attrs if n not in schema.attributes]:
        spec = form.node.op.attrs.get(name)
        if spec is not None and spec.default is not REQUIRED and spec.default == form.attrs[name]:
            del form.attrs[name]


def _least(opsets: Opsets, node: Node, above: int, newest: int) -> int:
    """The lowest opset from ``above`` on that has a form for ``node``. Raises UnsupportedError."""
    domain, name = node.op.domain, node.op.name
    versions = {int(s.since_version) for s in _history(domain).get(name, ())}
    versions |= {version for version, _ in lowering_steps(name)} | {newest}
    for version in sorted(v for v in versions if v >= above):
        if isinstance(opsets.form(node, version), Form):
            return version
    types = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
    raise UnsupportedError(
        f"node '{node.name or node.output.name}' ({node.op.qualified}): no ONNX opset has it "
        f"for operands ({types}) and attributes {sorted(node.attrs)}"
    )


def choose_opsets(graph: Graph, wanted: int | None) -> Opsets:
    """Opsets by domain to write ``graph`` in: the source's, or higher where a node needs it.

    Raises OptionError when ``wanted`` is too low or unknown, UnsupportedError for a node that no
    opset has.
    """
    from onnx import defs

    newest = int(defs.onnx_opset_version())
    if wanted is not None and not 1 <= wanted <= newest:
        raise OptionError(f"opset {wanted} does not exist (they go from 1 to {newest})")
    source = graph.metadata.get("onnx.opset", "")
    floor = min(int(source), newest) if source.isdigit() else _FLOOR
    result = Opsets(wanted if wanted is not None else floor)
    for node in graph.walk():
        domain = node.op.domain
        if domain == "graphopt" or domain.startswith("graphopt."):
            raise UnsupportedError(
                f"node '{node.name or node.output.name}': {node.op.qualified} is internal to "
                "graphopt; export the graph before it is lowered"
            )
        if domain:
            _choose_other(result, graph, node)
            continue
        found = result.form(node)
        if isinstance(found, Form):
            continue
        least = _least(result, node, result.version, newest)
        if wanted is not None:
            raise OptionError(
                f"opset {wanted} has no {node.op.name} as node "
                f"'{node.name or node.output.name}' uses it ({found}); it takes opset {least}"
            )
        result.versions[""] = least
    return result


def _choose_other(result: Opsets, graph: Graph, node: Node) -> None:
    domain = node.op.domain
    if node.op.name in _history(domain):
        start = result.versions.get(domain, 1)
        newest = int(_history(domain)[node.op.name][0].since_version)
        result.versions[domain] = _least(result, node, start, max(newest, start))
    else:
        given = graph.metadata.get(f"onnx.opset.{domain}", "1")
        result.versions.setdefault(domain, int(given) if given.isdigit() else 1)


_F64 = frozenset({DType.F64})
# What rewrites build but onnxruntime's CPU provider has no kernel for, and no function either.
_NOT_RUN: dict[str, frozenset[DType]] = {
    **dict.fromkeys(
        ("AveragePool", "Conv", "ConvTranspose", "Elu", "Erf", "Gelu", "GlobalAveragePool",
         "GlobalMaxPool", "HardSigmoid", "HardSwish", "Hardmax", "InstanceNormalization", "LRN",
         "LpPool", "Mean", "Mish", "Selu", "Softplus", "Softsign", "ThresholdedRelu"), _F64,
    ),
    "Swish": frozenset({DType.F16, DType.F32, DType.F64}),
}  # fmt: skip


# Formulas that are found, so that nothing takes them apart, and spelled out again at the end.
_SPELLED_AGAIN = frozenset({"Gelu", "LayerNormalization"})


def _spells(node: Node) -> bool:
    """True where onnx_expand has a spelling that takes no more nodes than what was found."""
    if node.op.name == "Gelu":
        return bool(node.attr("approximate") == "none")
    return len(node.outputs) == 1 and node.attr("axis") in (-1, (node.output.tensor.rank or 0) - 1)


def acceptor(
    graph: Graph, opset: int | None = None, *, contrib: bool = False
) -> Callable[[Node], str | None]:
    """Why a node that a rewrite builds may not stand in ``graph`` when it is written; None if so.

    Ops are those of ONNX at ``opset`` (by default the opset that the graph takes as it is) that
    onnxruntime runs for their types, of ``ai.onnx.ml``, and of ``com.microsoft`` if ``contrib``.
    GELU by erf and LayerNormalization may stand for their formulas at any opset: `expand` spells
    them out again. Raises what `choose_opsets` does.
    """
    opsets = Opsets(opset) if opset is not None else choose_opsets(graph, None)

    def accepts(node: Node) -> str | None:
        domain = node.op.domain
        if not domain:
            value = node.output.type
            if isinstance(value, TensorType) and value.dtype in _NOT_RUN.get(node.op.name, ()):
                return f"onnxruntime has no {node.op.name} of {value.dtype}"
            found = opsets.form(node)
            if node.op.name in _SPELLED_AGAIN and _spells(node):
                return None
            return None if isinstance(found, Form) else f"opset {opsets.version}: {found}"
        if domain == "com.microsoft" and not contrib:
            return f"{node.op.qualified} is no op of ONNX"
        if domain == "graphopt" or domain.startswith("graphopt."):
            return f"{node.op.qualified} is internal to graphopt"
        return None

    return accepts
