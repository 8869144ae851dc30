"""``graphopt quantize``: a model to one that computes in integers, within a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli.common import InputShapes, JsonFlag, emit_json, parse_shapes, progress
from graphopt.cli.files import save_text
from graphopt.errors import BudgetError, OptionError

__all__ = ["parse_share", "quantize_command"]


def quantize_command(
    model: Annotated[Path, typer.Argument(help="ONNX model.", readable=False)],
    data: Annotated[
        str,
        typer.Option(
            "--data", help="Calibration data: .npz, a folder of images, or module:function."
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Quantized ONNX model.", readable=False)
    ],
    precision: Annotated[
        str,
        typer.Option("--precision", help="mixed, int8, int4 or int8-weights."),
    ] = "mixed",
    max_drop: Annotated[
        str, typer.Option("--max-drop", help="What may be lost, 1% or 0.01; 'any' to measure only.")
    ] = "1%",
    metric: Annotated[
        str, typer.Option("--metric", help="top1, f1, cosine or module:function.")
    ] = "cosine",
    evaluation: Annotated[
        str | None,
        typer.Option("--eval-data", help="Data to judge with (default: every 4th sample)."),
    ] = None,
    preprocess: Annotated[
        Path | None, typer.Option("--preprocess", help="TOML for a folder of images.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="auto, minmax, percentile, mse or entropy.")
    ] = "auto",
    percentile: Annotated[
        float, typer.Option("--percentile", help="Share of numbers that a range keeps, in %.")
    ] = 99.99,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Samples to calibrate with, at most.")
    ] = 128,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Samples a run, where the model lets it.")
    ] = 1,
    activations: Annotated[str, typer.Option("--activations", help="u8 or i8.")] = "u8",
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Activations symmetric about zero.")
    ] = False,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor", help="One scale for a layer's weights.")
    ] = False,
    group: Annotated[
        int, typer.Option("--group", min=2, help="Weights a scale (int4, int8-weights).")
    ] = 128,
    zeros: Annotated[
        bool, typer.Option("--zeros/--no-zeros", help="Zero points of groups of weights.")
    ] = True,
    rounding: Annotated[
        str, typer.Option("--rounding", help="Of weights in groups: nearest or gptq.")
    ] = "nearest",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time both models, warn of no gain.")
    ] = True,
    require_gain: Annotated[
        bool, typer.Option("--require-gain", help="Fail where the result is not faster.")
    ] = False,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="A layer that stays in floats. Repeatable.")
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity/--no-sensitivity", help="Measure each layer's error alone."),
    ] = True,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Time to measure sensitivities in.")
    ] = 120.0,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Where the report goes (default: OUTPUT.report.json)."),
    ] = None,
    input_shape: InputShapes = None,
    as_json: JsonFlag = False,
) -> None:
    """Quantize MODEL and write it as ONNX if the loss on held-out data is within the budget."""
    from graphopt import api
    from graphopt.data import load_samples
    from graphopt.quantization import QuantizeConfig, quantize

    config = QuantizeConfig(
        precision=precision,
        method=method,
        percentile=percentile,
        activations=activations,
        symmetric=symmetric,
        per_channel=not per_tensor,
        metric=metric,
        max_drop=parse_share(max_drop),
        group=group,
        zeros=zeros,
        rounding=rounding,
        measure=measure or require_gain,
        keep=tuple(keep or ()),
        samples=samples,
        sensitivity=sensitivity,
        seconds=seconds,
    )
    source = api.from_onnx(str(model), input_shapes=parse_shapes(input_shape))
    with progress(f"quantizing {model.name}"):
        calibration = load_samples(data, source, preprocess=preprocess, batch=batch)
        held_out = None
        if evaluation is not None:
            held_out = load_samples(evaluation, source, preprocess=preprocess, batch=batch)
        found = quantize(source, calibration, config, evaluation=held_out)
    result: dict[str, Any] = {"model": str(model), "output": str(output), **found.report}
    where = report or output.with_suffix(".report.json")
    save_text(where, json.dumps(result, indent=1, sort_keys=True, default=str) + "\n")
    result["report"] = str(where)
    alarm = found.report.get("time", {}).get("alarm")
    if found.met and not (alarm and require_gain):
        api.save_onnx(found.graph, output)
    if as_json:
        emit_json(result)
    elif found.met and not (alarm and require_gain):
        _show(result)
    if not found.met:
        raise BudgetError(_missed(result, where))
    if alarm and require_gain:
        raise BudgetError(f"{alarm}; no model was written")
    if alarm:
        typer.echo(f"warning: {alarm}", err=True)


def parse_share(text: str) -> float | None:
    """``1%`` or ``0.01`` as a number, None for ``any``. Raises OptionError."""
    if text == "any":
        return None
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise OptionError(f"'{text}' is no share: give 1%, 0.01 or any") from None


def _missed(result: dict[str, Any], where: Path) -> str:
    drop = result["accuracy"]["drop"]
    return (
        f"the loss of {result['metric']} on held-out data is {drop[0]:.4f} "
        f"[{drop[1]:.4f}, {drop[2]:.4f}], more than {result['max_drop']:g}: no model was written; "
        f"'{where}' says which layers cause it"
    )


def _show(result: dict[str, Any]) -> None:
    from graphopt.quantization.report import summary

    for line in summary(result):
        typer.echo(line)
    typer.echo(f"{result['output']} written; `graphopt report {result['report']}` shows the layers")
