"""From a model to an artifact: read, optimize, lower, build, check, save."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from graphopt import __version__
from graphopt.api import to_graph
from graphopt.backends import Backend, Target, find
from graphopt.backends.choices import Alternative, print_choices, readable
from graphopt.backends.plan import interpret
from graphopt.budget import keep_sensitive
from graphopt.errors import (
    CompileError,
    GraphoptError,
    InputError,
    OptionError,
    ToolchainError,
    UnsupportedError,
    VerificationError,
)
from graphopt.ir import Graph, Node, clone, print_graph
from graphopt.passes.pipelines import level
from graphopt.rewrite import PassContext, Pipeline
from graphopt.rewrite.names import join_names, split_names
from graphopt.runtime.artifact import Artifact

__all__ = [
    "FallbackWarning",
    "Report",
    "compile",
    "compile_graph",
    "passes_of",
    "unsupported",
]

# The relative L2 error that outputs of floats may have; 0: the tolerance of their type.
PRECISIONS = {"fp32": 0.0, "bf16": 1.5e-2, "fp16": 1e-2}
_QUANTIZED = ("int8", "auto")
_CUSTOM_OP_REMEDY = (
    "export the model without this custom op, or define it by graphopt.ops.register(OpDef(...))"
)


class FallbackWarning(UserWarning):
    """A node that no backend can lower runs in the reference interpreter, slowly."""


@dataclass
class Report:
    """What a compile did: passes with their times, fallbacks, and the check's result."""

    passes: list[str] = field(default_factory=list)
    edits: dict[str, int] = field(default_factory=dict)
    fallbacks: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] | None = None


def compile(
    model: Any,
    target: str | Target = "cpu",
    *,
    precision: str = "fp32",
    output: str | PathLike[str] | None = None,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
    optimize: str = "O2",
    verify: bool = True,
    inputs: Mapping[str, Any] | None = None,
    strict: bool = False,
    tune: float = 0.0,
    ctx: PassContext | None = None,
    data: Any = None,
    quantize: Any = None,
) -> Artifact:
    """Compiles a model and returns the artifact, saved to ``output`` when given.

    ``model`` is an ONNX path, bytes, ModelProto, or a Graph. ``input_shapes`` fixes or renames
    dimensions. ``verify`` runs source and artifact on ``inputs`` (random ones if none are given)
    and compares; where the target's device is missing, the manifest says that nothing was run.
    ``precision`` is fp32, on the CPU bf16 (products with constant weights on bfloat16
    operands; with ``verify`` the layers that would move outputs by more than 1.5e-2 stay in
    float32, named in the target of the artifact), on CUDA fp16 (f16 between kernels, sums in f32;
    budget 1e-2), int8 (quantized with ``data`` to calibrate and judge with, by the options of
    ``quantize``, a :class:`graphopt.compress.QuantizeConfig`) or auto (int8 where it keeps its
    budget and is measured to be faster, else fp32; the manifest says which under
    ``quantization``). ``strict`` makes a node that falls back to the interpreter an error. ``tune``
    seconds are spent on timing other kernels than the cost model chooses, on ``inputs`` and this
    machine; those that are faster stand in the target of the artifact, and a compile for that
    target makes the same artifact again without timing.

    Raises ModelError, OptionError, InputError, UnsupportedError (an op that nobody defines; with
    ``strict`` one that no kernel runs), ToolchainError, CompileError, VerificationError,
    BudgetError (int8 loses more than it may), ArtifactError (``output`` cannot be written).
    """
    if precision in _QUANTIZED:
        from graphopt.quantization.artifact import compile_quantized

        def build(model: Any, verify: bool) -> Artifact:
            return compile(
                model,
                target,
                optimize=optimize,
                verify=verify,
                strict=strict,
                inputs=inputs,
                tune=tune,
            )

        source = to_graph(model, input_shapes=input_shapes)
        artifact = compile_quantized(
            source,
            data,
            quantize,
            automatic=precision == "auto",
            in_floats=lambda: build(source if input_shapes else model, verify),
            # It was judged against the source model already; numbers differ by design.
            in_integers=lambda graph: build(graph, False),
        )
        if output is not None:
            artifact.save(output)
        return artifact
    if precision not in PRECISIONS:
        known = ", ".join((*PRECISIONS, *_QUANTIZED))
        raise OptionError(f"there is no precision '{precision}' (there are: {known})")
    if precision != "fp32":
        target = Target.parse(target) if isinstance(target, str) else target
        target = target.with_option("precision", precision)
    source = to_graph(model, input_shapes=input_shapes)
    if inputs is not None:
        from graphopt.verify import fit_inputs

        inputs = fit_inputs(source, inputs)
    if tune > 0:
        target = _tuned(source, target, optimize, inputs, tune)
    artifact = compile_graph(source, target, optimize=optimize, strict=strict, ctx=ctx)
    if verify:

        def rebuild(kept: Sequence[str]) -> Artifact:
            chosen = Target.parse(target) if isinstance(target, str) else target
            names = {*split_names(chosen.option("exclude")), *kept}
            chosen = chosen.with_option("exclude", join_names(names))
            return compile_graph(source, chosen, optimize=optimize, strict=strict)

        def checked(artifact: Artifact) -> dict[str, Any]:
            return check(model, source, artifact, inputs, budget=PRECISIONS[precision])

        artifact, result = _within_budget(artifact, checked, rebuild)
        artifact = Artifact({**artifact.manifest, "verification": result}, artifact.members)
    if output is not None:
        artifact.save(output)
    return artifact


def _within_budget(
    artifact: Artifact,
    checked: Callable[[Artifact], dict[str, Any]],
    rebuild: Callable[[Sequence[str]], Artifact],
) -> tuple[Artifact, dict[str, Any]]:
    """The artifact and its check's result; where the check fails because of a lower precision, an
    artifact in which the layers that are to blame keep float32."""
    try:
        return artifact, checked(artifact)
    except VerificationError:
        notes = json.loads(artifact.read("report.json"))["notes"]
        layers: list[str] = notes.get("lowered_precision", [])

        def excess(kept: Sequence[str]) -> float:
            try:
                checked(rebuild(kept))
            except VerificationError as error:
                return error.excess
            return 0.0

        kept = keep_sensitive(layers, excess) if layers else None
        if kept is None:
            raise
    artifact = rebuild(kept)
    result = checked(artifact)
    return artifact, {**result, "kept_in_fp32": [len(kept), len(layers)]}


def _tuned(
    source: Graph,
    target: str | Target,
    optimize: str,
    inputs: Mapping[str, Any] | None,
    seconds: float,
) -> Target:
    """The target with the choices that a measurement made, beside those that it has."""
    from graphopt.tuning import Build, first_runnable, measure, tune
    from graphopt.verify import default_sizes, random_inputs

    chosen = Target.parse(target) if isinstance(target, str) else target
    given = chosen.option("choices")

    def build(choices: Sequence[Alternative]) -> tuple[Build, Built]:
        text = "+".join(filter(None, [given, print_choices(choices)]))
        own = chosen.with_option("choices", text) if text else chosen
        made = _build(source, own, optimize, PassContext())
        return Build(made.artifact, [node.origin for node in made.graph]), made

    default, made = build([])
    others = made.backend.alternatives(made.graph, chosen)
    if not others:
        return chosen
    tried = (random_inputs(source, sizes) for sizes in default_sizes(source))
    data = first_runnable(default, tried if inputs is None else [inputs])
    if data is None:
        return chosen
    won = tune(default, others, lambda some: build(some)[0], seconds, measure(data, None))
    text = "+".join(filter(None, [given, print_choices(won)]))
    return chosen.with_option("choices", text) if text else chosen


def compile_graph(
    source: Graph,
    target: str | Target = "cpu",
    *,
    optimize: str = "O2",
    strict: bool = False,
    ctx: PassContext | None = None,
) -> Artifact:
    """Compiles a SOURCE graph, which is left as it is. Nothing is checked or saved.

    Raises what :func:`compile` does, but for what concerns inputs and output.
    """
    built = _build(source, target, optimize, ctx or PassContext())
    _report_fallbacks(built.fallbacks, built.backend, strict)
    return built.artifact


def passes_of(target: str | Target, optimize: str = "O2") -> Pipeline:
    """The passes that a compile for ``target`` runs, in order. Raises OptionError."""
    target = Target.parse(target) if isinstance(target, str) else target
    lowering = find(target.kind).pipeline(target)
    return Pipeline((*level(optimize).passes, *lowering.passes))


@dataclass(frozen=True)
class Built:
    """An artifact, what falls back to the interpreter, and the graph that became its steps."""

    artifact: Artifact
    fallbacks: list[tuple[Node, str]]
    backend: Backend
    graph: Graph


def _build(
    source: Graph, target: str | Target, optimize: str, ctx: PassContext, custom: bool = False
) -> Built:
    """Compiles, checks nothing and saves nothing. ``custom`` lets ops pass that nobody
    defines, to see what else is amiss."""
    target = Target.parse(target) if isinstance(target, str) else target
    backend = find(target.kind)
    backend.check_options(target)
    unavailable = backend.probe()
    if unavailable is not None:
        raise ToolchainError(f"target '{target}': {unavailable}")
    ctx.target = target
    graph = clone(source)
    pipeline = level(optimize)
    pipeline(graph, ctx)
    if not custom:
        _require_definitions(graph)
    refused = backend.refuses(graph, target)
    if refused is None:
        lowering = backend.pipeline(target)
        lowering(graph, ctx)
        pipeline = Pipeline((*pipeline.passes, *lowering.passes))
        compiled = backend.build(graph, target, ctx)
    else:
        compiled = interpret(graph, refused)
    fallbacks = [(n, _not_defined(n) or reason) for n, reason in compiled.fallbacks]
    report = Report(
        passes=list(ctx.ran),
        edits={f"{p}/{r}": n for (p, r), n in sorted(ctx.log.counts().items())},
        fallbacks=[_row(node, reason) for node, reason in fallbacks],
        notes=compiled.notes,
    )
    members: dict[str, Any] = dict(compiled.members)
    members["report.json"] = json.dumps(report.__dict__, sort_keys=True, indent=1).encode()
    members["graph.gir"] = print_graph(graph).encode()
    artifact = Artifact(_manifest(source, target, pipeline), members)
    return Built(artifact, fallbacks, backend, graph)


def _row(node: Node, reason: str) -> dict[str, str]:
    return {"node": node.name or node.output.name, "op": node.op.qualified, "reason": reason}


def _not_defined(node: Node) -> str:
    """Why nothing could ever run a node; "" when its op has semantics."""
    return "" if node.op.evaluate else f"graphopt does not define {node.op.qualified}"


def _require_definitions(graph: Graph) -> None:
    nodes = [node for node in graph.walk() if _not_defined(node)]
    if nodes:
        shown = ", ".join(f"'{n.name or n.output.name}' ({n.op.qualified})" for n in nodes[:5])
        more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
        raise UnsupportedError(
            f"graphopt does not define the op of node {shown}{more}; {_CUSTOM_OP_REMEDY}"
        )


def _report_fallbacks(found: list[tuple[Node, str]], backend: Backend, strict: bool) -> None:
    if not found:
        return
    shown = [f"'{n.name or n.output.name}' ({n.op.qualified}: {r})" for n, r in found[:5]]
    more = len(found) - len(shown)
    text = f"{len(found)} node(s) that '{backend.name}' cannot lower: {', '.join(shown)}"
    text += f" and {more} more" if more else ""
    if strict:
        raise UnsupportedError(text)
    warnings.warn(f"the reference interpreter runs {text}", FallbackWarning, stacklevel=4)


def _manifest(graph: Graph, target: Target, pipeline: Pipeline) -> dict[str, Any]:
    return {
        "graphopt_version": __version__,
        "name": graph.name,
        "target": str(target),
        "choices": readable(target.option("choices")),
        "pipeline": str(pipeline),
        "inputs": [{"name": v.name, "type": str(v.type)} for v in graph.inputs],
        "outputs": [
            {"name": name, "type": str(v.type)}
            for v, name in zip(graph.outputs, graph.output_names, strict=True)
        ],
        "metadata": dict(sorted(graph.metadata.items())),
    }


def unsupported(
    model: Any,
    target: str | Target = "cpu",
    *,
    input_shapes: Mapping[str, Sequence[int | str]] | None = None,
) -> list[dict[str, str]]:
    """Every node that ``target`` would hand to the interpreter, with a reason and a proposal.

    The model is compiled for real, so that what passes rewrite is judged as it ends up.
    """
    source = to_graph(model, input_shapes=input_shapes)
    try:
        built = _build(source, target, "O2", PassContext(), custom=True)
        found = json.loads(built.artifact.read("report.json"))["fallbacks"]
    except CompileError:
        # A custom op of unknown rank ends the compile before all else is seen.
        found = [_row(node, reason) for node in source.walk() if (reason := _not_defined(node))]
        if not found:
            raise
    return [{**item, "proposal": _proposal(item)} for item in found]


def _proposal(item: Mapping[str, str]) -> str:
    if "graphopt does not define" in item["reason"]:
        return _CUSTOM_OP_REMEDY
    if "only known when the model runs" in item["reason"] or "rank" in item["reason"]:
        return "fix the shape that it depends on with --input-shape"
    return "it will run in the interpreter: correct, but slow"


def check(
    model: Any,
    source: Graph,
    artifact: Artifact,
    inputs: Mapping[str, Any] | None = None,
    *,
    budget: float = 0.0,
) -> dict[str, Any]:
    """Runs source model and artifact on the same inputs; returns the errors measured.

    An output may differ by the tolerance of its type, by ``budget`` if it is of floats, or by twice
    what the oracle's own result moves by rounding, whatever is most. An artifact whose device is
    missing is not run: the result says why. Raises VerificationError naming an output that differs
    by more than that.
    """
    from graphopt.runtime import open_artifact
    from graphopt.verify import compare, find_oracle, rounding_errors

    try:
        session = open_artifact(artifact)
    except ToolchainError as error:
        return {"skipped": str(error)}
    oracle = find_oracle(model, source)
    found = _runnable(oracle, source, inputs)
    if found is None:
        return {
            "skipped": "the source model runs on none of the inputs tried; pass inputs of your own"
        }
    inputs, expected = found
    actual = session.run(inputs)
    results = compare(actual, expected, budget=budget)
    rounding: dict[str, float] = {}
    if not all(c.ok for c in results):
        rounding = rounding_errors(oracle, inputs, expected)
        results = compare(actual, expected, rounding=rounding, budget=budget)
    worst = max(results, key=lambda c: c.error / c.tolerance if c.tolerance else c.error)
    if not all(c.ok for c in results):
        bad = next(c for c in results if not c.ok)
        raise VerificationError(
            f"output '{bad.name}' differs from {oracle.name} by a relative error of "
            f"{bad.error:.3g} (allowed {bad.tolerance:.3g})",
            excess=worst.error / worst.tolerance if worst.tolerance else float("inf"),
        )
    result = {
        "oracle": oracle.name,
        "worst_output": worst.name,
        "relative_error": float(f"{worst.error:.3g}"),
        "tolerance": float(f"{worst.tolerance:.3g}"),
    }
    if rounding:
        result["rounding_error"] = float(f"{rounding[worst.name]:.3g}")
    return result


def _runnable(
    oracle: Any, source: Graph, inputs: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], dict[str, Any]] | None:
    """Inputs on which the source model runs, with its outputs."""
    from graphopt.verify import default_sizes, random_inputs

    if inputs is not None:
        try:
            return inputs, oracle.run(inputs)
        except GraphoptError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise InputError(
                f"{oracle.name} cannot run the source model on these inputs: {reason}"
            ) from error
    for sizes in default_sizes(source):
        try:
            candidate = random_inputs(source, sizes)
            return candidate, oracle.run(candidate)
        except GraphoptError:
            continue
        except Exception:
            # The oracle is somebody else's engine: any refusal means "not these sizes".
            continue
    return None
