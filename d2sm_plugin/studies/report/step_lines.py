"""Values of training steps, read back from the lines of a run's log."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from d2sm_plugin.errors import DataError

_STEP = re.compile(r"\[epoch:\s*\d+, iter:\s*(\d[\d,]*), lr:\(([^,)]*)[^)]*\)\](.*)")
_VALUE = re.compile(r"([A-Za-z_][\w/.-]*): ([-+\d.eE]+|nan|-?inf)(?= |$)")
_LINE = re.compile(r"^[\d-]+ [\d:,]+ INFO: (.*)")
#: Measured in single steps, which make no curve.
_NO_CURVES = ("grad_norm/", "grad_ratio/")


class StepValues(NamedTuple):
    """Values and first lines of a run's log.

    Attributes:
        curves: name -> step -> value.
        head: lines before the first step: versions, what is trained on which data.
    """

    curves: dict[str, dict[int, float]]
    head: Sequence[str]


def read_steps(folder: Path) -> StepValues:
    """Return the values in the logs ``train_*.log`` of a run's folder, in the order in which they were written.

    Where a run was continued, the later log counts from its first step on.

    Raises:
        DataError: when a log cannot be read.
    """
    curves: dict[str, dict[int, float]] = {}
    head: list[str] = []
    for file in sorted(folder.glob("train_*.log"), key=lambda path: path.stem[-15:]):  # by their time
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error})") from error
        steps = [match for match in map(_STEP.search, lines) if match]
        first = _step(steps[0]) if steps else math.inf
        curves = {name: {s: v for s, v in of.items() if s < first} for name, of in curves.items()}
        for match in steps:
            values = {"learning rate": match[2], **dict(_VALUE.findall(match[3]))}
            for name, text in values.items():
                if not name.startswith(_NO_CURVES):
                    curves.setdefault(name, {})[_step(match)] = _number(text)
        head = _head(lines) or head
    return StepValues({name: of for name, of in curves.items() if len(of) > 1}, head)


def _head(lines: Sequence[str]) -> list[str]:
    head = []
    for line in lines:
        if _STEP.search(line):
            break
        match = _LINE.match(line)
        if match and not match[1].startswith("Gradient of"):
            head.append(match[1])
    return head


def _step(match: re.Match[str]) -> int:
    return int(match[1].replace(",", ""))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
