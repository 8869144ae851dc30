"""The ledger of a target: every case of the ONNX suite that does not pass, with the reason."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Ledger", "path_of"]

_ROOT = Path(__file__).resolve().parents[2]
_HEADER = """\
# Cases of the ONNX backend suite that target '{target}' does not pass, each with its reason.
# `python -m tests.conformance.run --target {target} --update` adds and removes cases; reasons of
# new ones are the error messages: replace them by the cause. Cases whose outcome is chance
# (`random = true`) may pass.
"""


def path_of(target: str) -> Path:
    """The ledger file of a target."""
    return _ROOT / "backends" / target / "conformance.toml"


class Ledger:
    """Expected failures by ``suite/name``."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.reasons: dict[str, str] = {}
        self.random: set[str] = set()
        self.version = ""
        path = path_of(target)
        if path.exists():
            data = tomllib.loads(path.read_text())["onnx"]
            self.version = data["version"]
            for entry in data.get("fails", []):
                for case in entry["cases"]:
                    if case in self.reasons:
                        raise ValueError(f"{path}: {case} is listed twice")
                    if not entry["reason"].strip():
                        raise ValueError(f"{path}: {case} has no reason")
                    self.reasons[case] = entry["reason"]
                    if entry.get("random", False):
                        self.random.add(case)

    def write(self, version: str, counts: Mapping[str, int]) -> None:
        """Writes the ledger, cases of one reason together."""
        groups: dict[str, list[str]] = {}
        for case, reason in sorted(self.reasons.items()):
            groups.setdefault(reason, []).append(case)
        lines = [_HEADER.format(target=self.target), "[onnx]", f'version = "{version}"']
        lines += [f"{key} = {value}" for key, value in counts.items()]
        for reason, cases in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
            lines += ["", "[[onnx.fails]]", f"reason = {json.dumps(reason, ensure_ascii=False)}"]
            if self.random.issuperset(cases):
                lines.append("random = true")
            lines += ["cases = [", *(f"  {json.dumps(case)}," for case in cases), "]"]
        path_of(self.target).write_text("\n".join(lines) + "\n")
