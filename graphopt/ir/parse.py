"""The `.gir` text form: parsing. The grammar is shown in :mod:`graphopt.ir.text`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphopt.errors import ParseError
from graphopt.ir.constant import Constant
from graphopt.ir.dim import Dim, Expr, parse_dim
from graphopt.ir.dtype import DType
from graphopt.ir.graph import Graph, Value
from graphopt.ir.op import OpDef, resolve_op
from graphopt.ir.types import OptionalType, SequenceType, TensorType, Type

__all__ = ["parse", "parse_attr", "parse_type"]

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?://[^\n]*\n[ \t\r\n]*)*(?:
      (?P<value>%(?:"(?:[^"\\]|\\.)*"|[A-Za-z0-9_./\-]+))
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<number>-?(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))(?![A-Za-z_])
    | (?P<hash>\#[0-9a-f]+)
    | (?P<word>[A-Za-z_][A-Za-z0-9_.\-]*(?:::[A-Za-z0-9_.\-]+)?)
    | (?P<punct>->|//|[@(){}\[\]<>,:=*+%\-|])
    )""",
    re.VERBOSE,
)

Constants = Mapping[str, np.ndarray[Any, Any]] | Callable[[str], np.ndarray[Any, Any]]


def parse(
    text: str,
    *,
    constants: Constants | None = None,
    resolve: Callable[[str, str], OpDef] = resolve_op,
) -> Graph:
    """The graph that ``text`` describes. Raises ParseError with line and column.

    ``constants`` gives the arrays of constants that stand by digest; without it such a constant
    knows its type and digest only.
    """
    return _Parser(text, constants, resolve).module()


def parse_attr(
    text: str,
    *,
    constants: Constants | None = None,
    resolve: Callable[[str, str], OpDef] = resolve_op,
) -> Any:
    """The attribute that ``text`` describes, as :func:`print_attr` prints it. Raises ParseError."""
    return _Parser(text, constants, resolve).alone(_Parser.attr)


def parse_type(text: str) -> Type:
    """The type that ``text`` describes. Raises ParseError."""
    found: Type = _Parser(text, None, resolve_op).alone(_Parser.type)
    return found


class _Parser:
    def __init__(
        self, text: str, constants: Constants | None, resolve: Callable[[str, str], OpDef]
    ) -> None:
        self.text = text
        self.at = 0
        self.constants = constants
        self.resolve = resolve
        self.kind = ""
        self.token = ""
        self.start = 0
        self.left = 0
        self.values: dict[str, Value] = {}
        self.advance()

    # ---- tokens ----

    def fail(self, cause: str, *, left: bool = False) -> Any:
        """Raises ParseError at the token at hand, or at the one just left."""
        at = self.left if left else self.start
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        raise ParseError(f"line {line}, column {column}: {cause}")

    def advance(self) -> str:
        """Steps to the next token and returns the one just left."""
        left, self.left = self.token, self.start
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            rest = re.match(r"(?:[ \t\r\n]|//[^\n]*(?:\n|\Z))*", self.text[self.at :])
            self.start = self.at + (rest.end() if rest else 0)
            if self.start < len(self.text):
                self.fail(f"unexpected character {self.text[self.start]!r}")
            self.kind, self.token = "end", ""
            return left
        self.kind = match.lastgroup or ""
        self.token = match.group(self.kind)
        self.start = match.start(self.kind)
        self.at = match.end()
        return left

    def expect(self, token: str) -> None:
        if self.token != token or self.kind == "string":
            self.fail(f"expected '{token}', found '{self.token or 'end of text'}'")
        self.advance()

    def accept(self, token: str) -> bool:
        if self.token == token and self.kind != "string":
            self.advance()
            return True
        return False

    def string(self) -> str:
        if self.kind != "string":
            self.fail(f"expected a string, found '{self.token}'")
        return str(json.loads(self.advance()))

    def value_name(self) -> str:
        if self.kind != "value":
            self.fail(f"expected a value (%name), found '{self.token}'")
        body = self.advance()[1:]
        return str(json.loads(body)) if body.startswith('"') else body

    # ---- types ----

    def dims(self, close: str) -> tuple[Dim, ...]:
        """Comma-separated sizes up to ``close`` at depth 0."""
        # Read as characters: `//` divides here, elsewhere it begins a comment.
        result: list[Dim] = []
        begin = at = self.start
        depth = 0
        while not (depth == 0 and self.text.startswith(close, at)):
            char = self.text[at : at + 1]
            if char == "'":
                at = self.text.find("'", at + 1)
            if not char or at < 0:
                self.fail(f"expected '{close}'")
            depth += (char in "([") - (char in ")]")
            if char == "," and depth == 0:
                result.append(self.dim(self.text[begin:at]))
                begin = at + 1
            at += 1
        tail = self.text[begin:at].strip()
        if tail or result:
            result.append(self.dim(tail))
        self.at = at
        self.advance()
        return tuple(result)

    def dim(self, text: str) -> Dim:
        try:
            return parse_dim(text.strip())
        except (ValueError, ZeroDivisionError) as error:
            self.fail(str(error))
            raise

    def type(self) -> Type:
        word = self.advance()
        if word in ("seq", "opt"):
            self.expect("<")
            element = self.type()
            self.expect(">")
            return SequenceType(element) if word == "seq" else OptionalType(element)
        try:
            dtype = DType.parse(word)
        except ValueError as error:
            self.fail(str(error), left=True)
        self.expect("[")
        if self.accept("*"):
            self.expect("]")
            return TensorType(dtype, None)
        dims = self.dims("]")
        self.expect("]")
        return TensorType(dtype, dims)

    def tensor_type(self) -> TensorType:
        found = self.type()
        if not isinstance(found, TensorType):
            self.fail("a constant needs a tensor type")
        assert isinstance(found, TensorType)
        return found

    # ---- graphs ----

    def alone(self, rule: Callable[[_Parser], Any]) -> Any:
        """What ``rule`` reads, which must be all there is."""
        found = rule(self)
        if self.kind != "end":
            self.fail(f"unexpected '{self.token}' after it")
        return found

    def module(self) -> Graph:
        self.expect("graph")
        graph = self.graph(None)
        if self.kind != "end":
            self.fail(f"unexpected '{self.token}' after the graph")
        return graph

    def graph(self, parent: Graph | None) -> Graph:
        self.expect("@")
        name = self.string() if self.kind == "string" else self.advance()
        graph = Graph(name, parent)
        self.expect("(")
        while not self.accept(")"):
            name = self.value_name()
            if name in self.values:
                self.fail(f"%{name} is defined twice", left=True)
            value = graph.add_input(name, self.annotated_type())
            self.values[name] = value
            if self.accept("<"):
                value.set_elements(self.dims(">"))
                self.expect(">")
            self.accept(",")
        self.expect("->")
        self.expect("(")
        outputs: list[tuple[str, str]] = []
        while not self.accept(")"):
            value_name = self.value_name()
            shown = self.string() if self.accept("as") else value_name
            outputs.append((value_name, shown))
            self.accept(",")
        self.expect("{")
        while not self.accept("}"):
            self.statement(graph)
        for value_name, shown in outputs:
            graph.add_output(self.lookup(value_name), shown)
        return graph

    def annotated_type(self) -> Type:
        self.expect(":")
        return self.type()

    def lookup(self, name: str) -> Value:
        found = self.values.get(name)
        if found is None:
            self.fail(f"%{name} is not defined", left=True)
        assert found is not None
        return found

    def statement(self, graph: Graph) -> None:
        if self.accept("meta"):
            key = self.string()
            self.expect("=")
            graph.metadata[key] = self.string()
            return
        names: list[str] = []
        types: list[Type | None] = []
        elements: list[tuple[Dim, ...] | None] = []
        while True:
            names.append(self.value_name())
            types.append(self.annotated_type() if self.token == ":" else None)
            known = None
            if self.accept("<"):
                known = self.dims(">")
                self.expect(">")
            elements.append(known)
            if not self.accept(","):
                break
        self.expect("=")
        if self.accept("const"):
            self.constant_statement(graph, names[0])
            return
        self.node_statement(graph, names, types, elements)

    def constant_statement(self, graph: Graph, name: str) -> None:
        if name in self.values:
            self.fail(f"%{name} is defined twice")
        self.values[name] = graph.add_constant(self.constant(), name)

    def node_statement(
        self,
        graph: Graph,
        names: list[str],
        types: list[Type | None],
        elements: list[tuple[Dim, ...] | None],
    ) -> None:
        domain, _, op_name = self.advance().rpartition("::")
        inputs: list[Value | None] = []
        self.expect("(")
        while not self.accept(")"):
            inputs.append(None if self.accept("_") else self.lookup(self.value_name()))
            self.accept(",")
        attrs: dict[str, Any] = {}
        if self.accept("{"):
            while not self.accept("}"):
                key = self.advance()
                self.expect("=")
                attrs[key] = self.attr()
                self.accept(",")
        origin: list[str] = []
        if self.accept("@"):
            self.expect("[")
            while not self.accept("]"):
                origin.append(self.string())
                self.accept(",")
        name = self.string() if self.accept(":") else (origin[0] if len(origin) == 1 else "")
        if self.accept("regions"):
            self.expect("{")
            while not self.accept("}"):
                key = self.advance()
                self.expect("=")
                attrs[key] = self.graph(graph)
        for value_name in names:
            if value_name in self.values:
                self.fail(f"%{value_name} is defined twice")
        declared = [t for t in types if t is not None]
        node = graph.add(
            self.resolve(op_name, domain),
            inputs,
            attrs,
            n_outputs=len(names),
            types=declared if len(declared) == len(types) else None,
            names=names,
            name=name,
            origin=origin or [name or names[0]],
        )
        for value, value_name, known in zip(node.outputs, names, elements, strict=True):
            if value.name != value_name:
                self.fail(f"the value name %{value_name} is used twice")
            if known is not None:
                value.set_elements(known)
            self.values[value_name] = value

    # ---- attributes and constants ----

    def attr(self) -> Any:
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            return _number(self.advance())
        if self.accept("["):
            items: list[Any] = []
            while not self.accept("]"):
                items.append(self.attr())
                self.accept(",")
            return tuple(items)
        word = self.advance()
        if word == "tensor":
            return self.constant()
        self.expect("(")
        if word == "hex":
            result: Any = self.hex_bytes()
        elif word == "type":
            result = self.type()
        elif word == "dim":
            result = self.dims(")")[0]
            if not isinstance(result, int | Expr):
                self.fail("dim() takes one size")
        else:
            self.fail(f"unknown attribute form '{word}'")
        self.expect(")")
        return result

    def hex_bytes(self) -> bytes:
        try:
            return bytes.fromhex(self.string())
        except ValueError:
            self.fail("hex() takes pairs of hexadecimal digits", left=True)
            raise

    def constant(self) -> Constant:
        type = self.tensor_type()
        if not type.static:
            self.fail("a constant needs a static shape")
        if self.kind == "hash":
            digest = self.advance()[1:]
            load = self.loader(digest)
            return Constant(None, type=type, load=load, digest=digest)
        if self.kind == "word":
            return self.described(type)
        self.expect("[")
        items: list[Any] = []
        while not self.accept("]"):
            items.append(self.element())
            self.accept(",")
        assert type.shape is not None
        shape = tuple(d for d in type.shape if isinstance(d, int))
        if len(items) != int(np.prod(shape, dtype=np.int64)):
            self.fail(f"{type} takes {int(np.prod(shape))} elements, not {len(items)}")
        array = np.empty(len(items), dtype=type.dtype.numpy)
        for index, item in enumerate(items):
            array[index] = item
        return Constant(array.reshape(shape))

    def described(self, type: TensorType) -> Constant:
        """Contents that a word stands for, as tests write them: ``splat(0.5)``, ``seed(1)``
        (standard normal), ``seed(1, low, high)`` (uniform; integers below high), ``any``."""
        shape = tuple(d for d in type.shape or () if isinstance(d, int))
        word = self.advance()
        if word == "any":
            return Constant(None, type=type, digest="any")
        self.expect("(")
        numbers = [self.element()]
        while self.accept(","):
            numbers.append(self.element())
        self.expect(")")
        dtype = type.dtype.numpy
        if word == "splat" and len(numbers) == 1:
            return Constant(np.full(shape, numbers[0], dtype=dtype))
        if word != "seed" or len(numbers) not in (1, 3) or not isinstance(numbers[0], int):
            self.fail("expected splat(x), seed(n), seed(n, low, high) or any")
        rng = np.random.default_rng(numbers[0])
        if len(numbers) == 1:
            array = rng.standard_normal(shape)
        elif type.dtype.is_integer:
            array = rng.integers(int(numbers[1]), int(numbers[2]), shape).astype(np.float64)
        else:
            array = rng.uniform(float(numbers[1]), float(numbers[2]), shape)
        return Constant(np.asarray(array).astype(dtype))

    def loader(self, digest: str) -> Callable[[], np.ndarray[Any, Any]] | None:
        source = self.constants
        if source is None:
            return None
        if callable(source):
            return lambda: source(digest)
        if digest not in source:
            return None
        return lambda: source[digest]

    def element(self) -> Any:
        if self.kind == "string":
            return self.string()
        if self.accept("("):
            real = float(self.advance())
            self.expect(",")
            imaginary = float(self.advance())
            self.expect(")")
            return complex(real, imaginary)
        if self.kind != "number":
            self.fail(f"expected a number, found '{self.token}'")
        return _number(self.advance())


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
