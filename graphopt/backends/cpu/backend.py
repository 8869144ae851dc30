"""The CPU backend: from a CORE graph to a plan, packed weights and object code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import ClassVar

from graphopt.backends.base import Backend, Compiled, Target, Unavailable
from graphopt.backends.choices import Alternative, parse_choices, print_choices
from graphopt.backends.cpu.alternatives import alternatives
from graphopt.backends.cpu.apply_choices import STEP_CHOICES, ApplyChoices
from graphopt.backends.cpu.expand_quantized import ExpandQuantized
from graphopt.backends.cpu.fuse_chains import FuseChains
from graphopt.backends.cpu.fuse_epilogue import FuseEpilogue
from graphopt.backends.cpu.fuse_groups import FuseGroups, classify
from graphopt.backends.cpu.fuse_int8 import FuseInt8
from graphopt.backends.cpu.lower_attention import LowerAttention
from graphopt.backends.cpu.lower_bf16 import LowerBf16
from graphopt.backends.cpu.lower_dense import LowerDense
from graphopt.backends.cpu.lower_int4 import LowerInt4
from graphopt.backends.cpu.lower_int8 import LowerInt8
from graphopt.backends.cpu.lower_lookup import LowerLookup
from graphopt.backends.cpu.lower_native import LowerNative, refusal
from graphopt.backends.cpu.lower_recurrent import LowerRecurrent
from graphopt.backends.cpu.lower_rotary import LowerRotary
from graphopt.backends.cpu.lower_views import LowerViews
from graphopt.backends.cpu.lower_winograd import LowerWinograd
from graphopt.backends.cpu.ops import CONTROL_FLOW, DOMAIN, plan_regions
from graphopt.backends.cpu.store_bf16 import StoreBf16
from graphopt.backends.plan import PlanBuilder, symbols_of
from graphopt.errors import OptionError
from graphopt.ir import DType, Graph, Node, TensorType, Value, symbols
from graphopt.passes import parse_pipeline
from graphopt.passes.merge_products import MergeProducts
from graphopt.rewrite import Pass, PassContext, Pipeline, Refusal
from graphopt.rewrite.names import join_names

__all__ = ["LEVELS", "CpuBackend"]

# ISA levels of generated code by their short names.
LEVELS = {"v2": "x86-64-v2", "v3": "x86-64-v3", "v4": "x86-64-v4"}

# The attention kernel reads heads where they lie in the result of one product.
_ATTENTION = "simplify,fuse-rotary,fuse-attention,eliminate-dead,simplify"
# What the option `choices` may say, beside what becomes an attribute of a step.
_KERNEL_CHOICES = ("direct", "winograd", "separate")


class CpuBackend(Backend):
    """x86-64: C++ kernels with prepacked weights, and code generated through TVM."""

    name: ClassVar[str] = "cpu"
    summary: ClassVar[str] = "x86-64, AVX2 and AVX-512: own kernels and generated code"
    options: ClassVar[Mapping[str, str]] = {
        "amx": "on or off: whether precision=bf16 is for processors with AMX (default as this one)",
        "choices": "kernels that a measurement chose, as --tune stores them (default none)",
        "exact": "on leaves out algorithms that round more than a plain sum does (default off)",
        "exclude": "source nodes that precision=bf16 leaves in float32, joined by '+'",
        "levels": "ISA levels of generated code, joined by '+' (v2, v3, v4; default v3+v4)",
        "precision": "fp32 or bf16: operands of products with constant weights (default fp32)",
    }

    def probe(self) -> Unavailable | None:
        """The code generator must be installed."""
        from importlib.util import find_spec

        if find_spec("tvm") is None:
            return Unavailable(
                "apache-tvm is not installed", "`pip install graphopt[cpu]` brings it"
            )
        return None

    def levels(self, target: Target) -> list[str]:
        """ISA levels that generated code is made for. Raises OptionError."""
        result = []
        for short in target.option("levels", "v3+v4").split("+"):
            if short not in LEVELS:
                raise OptionError(
                    f"there is no ISA level '{short}' (there are: {', '.join(LEVELS)})"
                )
            result.append(LEVELS[short])
        return result

    def _choice(self, target: Target, name: str, choices: tuple[str, ...]) -> str:
        """An option that is one of ``choices``, the first by default. Raises OptionError."""
        found = target.option(name, choices[0])
        if found not in choices:
            wanted = " or ".join(choices)
            raise OptionError(f"option '{name}' of target '{self.name}' is {wanted}, not '{found}'")
        return found

    def _amx(self, target: Target) -> bool:
        """Whether to choose for AMX, where sums of bfloat16 are faster than Winograd in float32."""
        from graphopt import _native

        here = "on" if "amx_bf16" in _native.extensions() else "off"
        return self._choice(target, "amx", (here, "off" if here == "on" else "on")) == "on"

    def supports(self, node: Node, target: Target) -> Refusal | None:
        """Asks by lowering a graph of this node alone."""
        if node.op.domain == DOMAIN or node.is_a("If") or node.op.name in CONTROL_FLOW:
            return None
        if classify(node) is not None:
            return None
        reason = refusal(node)
        return None if reason is None else Refusal(reason, node)

    def refuses(self, graph: Graph, target: Target) -> str | None:
        """Plans hold tensors of known rank with a flat form in memory."""
        for value in _values(graph):
            if not isinstance(value.type, TensorType) or value.type.dtype is DType.STRING:
                return f"%{value.name} is {value.type}, not a tensor of numbers"
            if value.type.shape is None:
                return f"the rank of %{value.name} is not known"
        return None

    def pipeline(self, target: Target) -> Pipeline:
        """Dense kernels first, then layout, epilogues, views, groups, and what is left."""
        clean = parse_pipeline("fold-constants,simplify,merge-common,eliminate-dead").passes
        layout = parse_pipeline("sink-transposes").passes
        exact = self._choice(target, "exact", ("off", "on")) == "on"
        bf16 = self._choice(target, "precision", ("fp32", "bf16")) == "bf16"
        exclude = target.option("exclude")
        choices = parse_choices(target.option("choices"), (*_KERNEL_CHOICES, *STEP_CHOICES))
        kernels = {choice: join_names(choices[choice]) for choice in _KERNEL_CHOICES}
        of_steps = print_choices(
            Alternative(choice, name) for choice in STEP_CHOICES for name in choices[choice]
        )
        lowering: tuple[Pass, ...] = (
            *parse_pipeline(_ATTENTION).passes,
            MergeProducts(readers="attention", keep=kernels["separate"]),
            LowerRotary(),
            LowerAttention(),
            ExpandQuantized(),
            *parse_pipeline("cancel-quantize").passes,
            LowerInt8(),
            LowerInt4(),
            # What is left of quantized weights is for kernels on floats.
            *parse_pipeline("fold-constants{dequantize=true}").passes,
            *(
                ()
                if exact or (bf16 and self._amx(target))
                else (LowerWinograd(bf16, kernels["direct"], kernels["winograd"]),)
            ),
            LowerRecurrent(),
            LowerDense(),
            *((LowerBf16(exclude),) if bf16 else ()),
            *layout,
            *clean,
            LowerLookup(),
            FuseInt8(),
            FuseEpilogue(),
            *((StoreBf16(exclude),) if bf16 else ()),
            FuseChains(),
            *((ApplyChoices(of_steps),) if of_steps else ()),
            LowerViews(),
            *parse_pipeline("eliminate-dead").passes,
            FuseGroups(),
            LowerNative(),
            *parse_pipeline("eliminate-dead").passes,
        )
        return Pipeline(lowering)

    def alternatives(self, graph: Graph, target: Target) -> list[Alternative]:
        """Other convolutions, tiles, shares and projections than the cost model chose."""
        return alternatives(graph, exact=target.option("exact") == "on")

    def build(self, graph: Graph, target: Target, ctx: PassContext) -> Compiled:
        """Generates code for all groups at once, then lays out the plan."""
        from graphopt.codegen import KernelRequest, compile_kernels

        levels = self.levels(target)
        nodes = list(_steps(graph))
        groups = [n for n in nodes if n.op.domain == DOMAIN and n.op.name == "group"]
        compiled = compile_kernels([KernelRequest.from_node(node) for node in groups], levels)
        kernels = dict(zip(groups, compiled.kernels, strict=True))
        objects = {level: f"objects/{level}.o" for level in levels} if groups else {}
        plan = PlanBuilder(graph, kernels.__getitem__).build(objects)
        result = Compiled(members={"plan": plan.to_json(), "weights": plan.weights})
        for level, member in objects.items():
            result.members[member] = compiled.objects[level]
        if plan.host_nodes:
            result.members["host.json"] = json.dumps(plan.host_nodes).encode()
        result.fallbacks = [(n, self._why(n, target)) for n in nodes if _hosted(n)]
        result.notes = {"kernels": len({k.symbol for k in compiled.kernels})}
        if rounded := [min(n.origin) for n in nodes if n.attrs.get("bf16")]:
            result.notes["lowered_precision"] = rounded
        return result

    def _why(self, node: Node, target: Target) -> str:
        known: set[str] = set()
        for operand in node.inputs:
            if operand is not None:
                known |= symbols_of(operand).union(*map(symbols, operand.elements or ()))
        for value in node.outputs:
            if symbols_of(value) - known:
                return f"a size of %{value.name} is only known when the model runs"
        refused = self.supports(node, target)
        return str(refused) if refused is not None else "it is not lowered in this form"


def _steps(graph: Graph) -> Iterator[Node]:
    """Nodes that become steps: those of control flow regions too, not those inside groups."""
    for node in graph:
        yield node
        for region in plan_regions(node):
            yield from _steps(region)


def _hosted(node: Node) -> bool:
    return node.op.domain != DOMAIN and node.op.name not in CONTROL_FLOW


def _values(graph: Graph) -> Iterator[Value]:
    yield from (*graph.inputs, *graph.constants.values())
    for node in graph:
        yield from node.outputs
        for region in node.regions:
            yield from _values(region)
