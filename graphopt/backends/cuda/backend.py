"""The CUDA backend: from a CORE graph to CUDA text, machine code for some GPUs, and launches."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from graphopt.backends.base import Backend, Compiled, Target, Unavailable
from graphopt.backends.cpu.fuse_groups import FuseGroups, classify
from graphopt.backends.cpu.lower_views import LowerViews
from graphopt.backends.cuda.fuse_tails import FuseTails
from graphopt.backends.cuda.half_storage import HalfStorage
from graphopt.backends.cuda.lower_dense import LowerDense, dense_reason
from graphopt.backends.cuda.nvrtc import compile_text, library_path, resources
from graphopt.backends.cuda.ops import DOMAIN
from graphopt.backends.cuda.program import Program
from graphopt.errors import OptionError
from graphopt.ir import Graph, Node, TensorType, static_shape
from graphopt.passes import parse_pipeline
from graphopt.rewrite import Pass, PassContext, Pipeline, Refusal

__all__ = ["CudaBackend"]

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Expand"})
# The kernel reads heads where they lie, so one product may make queries, keys and values.
_ATTENTION = "simplify,fuse-attention,eliminate-dead,simplify,merge-products{readers='attention'}"
_ARCH = re.compile(r"sm_(\d{2,3})")
# The oldest GPUs whose instructions the kernels use (cp.async, m16n8k16), and the newest named.
_OLDEST = 80


class CudaBackend(Backend):
    """NVIDIA GPUs from sm_80 on."""

    name: ClassVar[str] = "cuda"
    summary: ClassVar[str] = "NVIDIA GPUs, sm_80 and later: own kernels and generated code"
    options: ClassVar[dict[str, str]] = {
        "arch": "GPU generations, joined by '+' (default sm_80+sm_90)",
        "precision": "fp32, or fp16: f16 between kernels, sums in f32 (default fp32)",
        "toolkit": "NVRTC's major version: 13 (drivers from 580) or 12 (from 525; default 13)",
    }

    def probe(self) -> Unavailable | None:
        """NVRTC of either version must be installed."""
        if library_path("13") is None and library_path("12") is None:
            return Unavailable(
                "nvidia-cuda-nvrtc is not installed", "`pip install graphopt[cuda]` brings it"
            )
        return None

    def archs(self, target: Target) -> list[int]:
        """The generations to compile for. Raises OptionError."""
        found = []
        for name in target.option("arch", "sm_80+sm_90").split("+"):
            match = _ARCH.fullmatch(name)
            if match is None or int(match[1]) < _OLDEST:
                raise OptionError(
                    f"option 'arch' of target 'cuda' is sm_{_OLDEST} or later, such as "
                    f"sm_80+sm_90, not '{name}'"
                )
            found.append(int(match[1]))
        return sorted(set(found))

    def _choice(self, target: Target, name: str, choices: tuple[str, ...]) -> str:
        found = target.option(name, choices[0])
        if found not in choices:
            raise OptionError(
                f"option '{name}' of target 'cuda' is {' or '.join(choices)}, not '{found}'"
            )
        return found

    def supports(self, node: Node, target: Target) -> Refusal | None:
        """Whether a kernel, a group, a view or a constant comes of the node."""
        reason = _reason(node)
        return None if reason is None else Refusal(reason, node)

    def refuses(self, graph: Graph, target: Target) -> str | None:
        """Sizes are fixed, and every node has a kernel."""
        for value in graph.inputs:
            if not isinstance(value.type, TensorType) or static_shape(value.type.shape) is None:
                return (
                    f"the shape of input %{value.name} is not fixed, which target 'cuda' needs: "
                    f"give it by --input-shape"
                )
        for node in graph:
            reason = _reason(node)
            if reason is not None:
                name = node.name or node.output.name
                return f"target 'cuda' has no kernel for '{name}' ({node.op.qualified}): {reason}"
        return None

    def pipeline(self, target: Target) -> Pipeline:
        """Attention and dense kernels, layout, views, groups, tails, storage."""
        half = self._choice(target, "precision", ("fp32", "fp16")) == "fp16"
        lowering: tuple[Pass, ...] = (
            *parse_pipeline(_ATTENTION).passes,
            LowerDense(),
            *parse_pipeline("sink-transposes").passes,
            *parse_pipeline("fold-constants,simplify,merge-common,eliminate-dead").passes,
            LowerViews(),
            *parse_pipeline("eliminate-dead").passes,
            FuseGroups(any_index=True),
            FuseTails(),
            *((HalfStorage(),) if half else ()),
            *parse_pipeline("eliminate-dead").passes,
        )
        return Pipeline(lowering)

    def build(self, graph: Graph, target: Target, ctx: PassContext) -> Compiled:
        """Text, machine code of every generation, PTX for later ones, and the launches."""
        toolkit = self._choice(target, "toolkit", ("13", "12"))
        program = Program(graph)
        text = program.kernels.source()
        archs = self.archs(target)
        members: dict[str, Any] = {"kernels.cu": text.encode()}
        listed: list[dict[str, Any]] = []
        used: dict[str, dict[str, dict[str, int]]] = {}
        for sm in archs:
            member = f"objects/sm_{sm}.cubin"
            code, log = compile_text(text, f"sm_{sm}", toolkit)
            members[member] = code
            used[f"sm_{sm}"] = resources(log)
            listed.append({"sm": sm, "kind": "cubin", "member": member})
        member = f"objects/compute_{archs[-1]}.ptx"
        members[member], _ = compile_text(text, f"compute_{archs[-1]}", toolkit)
        listed.append({"sm": archs[-1], "kind": "ptx", "member": member})
        members["cuda.json"] = program.manifest(listed)
        members["weights"] = program.weights
        notes = {
            "launches": len(program.steps),
            "kernels": len(program.kernels.texts),
            "used": used,
        }
        return Compiled(members=members, notes=notes)


def _reason(node: Node) -> str | None:
    """Why nothing computes a node on the device; None when something does."""
    if node.op.domain == DOMAIN:
        return None
    if node.regions:
        return "it holds a graph"
    if all(isinstance(v.type, TensorType) and v.elements is not None for v in node.outputs):
        return None
    for value in node.outputs:
        if not isinstance(value.type, TensorType) or static_shape(value.type.shape) is None:
            return f"the shape of %{value.name} is not fixed"
    if not node.op.domain and node.op.name in _VIEWS:
        return None
    if classify(node, any_index=True) is not None:
        return None
    return dense_reason(node)
