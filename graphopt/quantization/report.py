"""The report of a quantization as one HTML page that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

__all__ = ["COLUMNS", "layer_rows", "summary", "to_html"]

COLUMNS = ("layer", "op", "bits", "error alone", "multiplications", "us before", "us after",
           "a fallback to floats buys", "and costs")  # fmt: skip
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }
table { border-collapse: collapse; width: 100% } th { text-align: left }
td, th { padding: .25em .8em; border-bottom: 1px solid #8884 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #c44; height: .8em; display: inline-block } .alarm { color: #c22 }
"""


def layer_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row of :data:`COLUMNS` for each layer, the worst first.

    Errors of independent roundings add up by their squares: what keeping a layer in floats buys is
    its share of the sum of squares.
    """
    rows = report.get("layers", [])
    total = sum((row.get("error") or 0.0) ** 2 for row in rows)
    result = []
    for row in rows:
        error = row.get("error")
        before, after = row.get("us_before"), row.get("us_after")
        buys = f"{error**2 / total:.1%} of the squared error" if error and total else ""
        costs = f"{before - after:+.1f} us" if before and after else ""
        result.append(
            [
                str(row["name"]),
                str(row["op"]),
                str(row["bits"]),
                "" if error is None else f"{error:.3e}",
                f"{row['multiplications']:.3g}",
                "" if before is None else f"{before:.1f}",
                "" if after is None else f"{after:.1f}",
                buys if row["bits"] < 32 else "in floats already",
                costs,
            ]
        )
    return result


def to_html(report: Mapping[str, Any]) -> str:
    """The page."""
    parts = [
        "<!doctype html><meta charset=utf-8><title>Quantization</title>",
        f"<style>{_STYLE}</style><h1>{_text(report.get('model', 'model'))}</h1>",
        "<ul>",
        *(f"<li>{_text(line)}" for line in summary(report)),
        "</ul>",
    ]
    alarm = report.get("time", {}).get("alarm")
    if alarm:
        parts.append(f"<p class=alarm><b>{_text(alarm)}</b>")
    parts.append("<h2>Layers, worst first</h2><table><tr>")
    parts += [f"<th>{_text(column)}" for column in COLUMNS]
    worst = max((row.get("error") or 0.0 for row in report.get("layers", [])), default=0.0)
    for row, source in zip(layer_rows(report), report.get("layers", []), strict=True):
        parts.append("<tr>")
        width = 6 * (source.get("error") or 0.0) / worst if worst else 0.0
        for column, cell in zip(COLUMNS, row, strict=True):
            bar = ""
            if column == "error alone" and cell:
                bar = f" <span class=bar style='width:{width:.2f}em'></span>"
            kind = "" if column in ("layer", "op") else " class=n"
            parts.append(f"<td{kind}>{_text(cell)}{bar}")
    parts.append("</table>")
    return "\n".join(parts) + "\n"


def summary(report: Mapping[str, Any]) -> list[str]:
    """What was lost and gained, in sentences."""
    accuracy = report["accuracy"]
    shown = {
        k: f"{v[0]:.4f} [{v[1]:.4f}, {v[2]:.4f}]" for k, v in accuracy.items() if k != "samples"
    }
    lines = [
        f"{report['metric']} before {shown['before']}, after {shown['after']}, "
        f"on {accuracy['samples']} held out",
        f"lost {shown['drop']} (95 % interval), allowed {_allowed(report)}: "
        + ("within the budget" if report["met"] else "more than that"),
    ]
    if "calibration" in report:
        lines.append(f"calibration: {report['calibration']['text']}")
    total = len(report["layers"])
    lines.append(f"{len(report['kept'])} of {total} layers stay in floats")
    if "time" in report:
        found = report["time"]
        lines.append(
            f"{found['before_ms']:.3g} ms a run before, {found['after_ms']:.3g} ms after: "
            f"{found['speedup']:.2f} times as fast"
        )
    return lines


def _allowed(report: Mapping[str, Any]) -> str:
    return "anything" if report["max_drop"] is None else f"{report['max_drop']:g}"


def _text(value: object) -> str:
    return html.escape(str(value))
