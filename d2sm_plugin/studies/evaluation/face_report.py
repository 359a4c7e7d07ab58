"""The table of a comparison on faces, for people (Markdown) and for programs (CSV, JSON)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

from d2sm_plugin.files import write_csv, write_json, write_whole


@dataclass
class FaceScores:
    """Measurements of every face of every method.

    Attributes:
        methods: names, in the order of the table.
        notes: sentences that say how it was measured, below the table.
    """

    methods: Sequence[str]
    notes: Sequence[str]
    _values: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def add(self, method: str, key: str, values: Mapping[str, float]) -> None:
        """Record one face."""
        self._values.setdefault(method, {})[key] = dict(values)

    def of(self, method: str, key: str) -> dict[str, float]:
        """Return what was measured of one face."""
        return self._values[method][key]

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured, in order."""
        return list(next(iter(self._values[self.methods[0]].values())))

    @property
    def count(self) -> int:
        """Number of faces."""
        return len(self._values[self.methods[0]])

    def mean(self, method: str) -> dict[str, float]:
        """Return the means over the faces."""
        rows = self._values[method].values()
        return {metric: float(np.mean([row[metric] for row in rows])) for metric in self.metrics}

    def rows(self) -> list[list[object]]:
        """Return method, key and values of every face."""
        return [[name, key, *values.values()] for name in self.methods for key, values in self._values[name].items()]


def write_face_report(scores: FaceScores, out: Path) -> str:
    """Write ``table.md``, ``metrics.csv``, ``metrics.json`` and ``per_face.csv`` into ``out``.

    The PSNR of equal images is infinite, which JSON has no number for; it is written as null.

    Returns:
        The table in Markdown.

    Raises:
        DataError: when a file cannot be written.
    """
    means = {name: scores.mean(name) for name in scores.methods}
    cells = [[name, *(_cell(metric, value) for metric, value in row.items())] for name, row in means.items()]
    table = tabulate(cells, headers=["method", *scores.metrics], tablefmt="github", disable_numparse=True)
    table += "\n\n" + " ".join([f"{scores.count} faces.", *scores.notes])
    document = {
        name: {metric: value if math.isfinite(value) else None for metric, value in row.items()}
        for name, row in means.items()
    }
    write_whole(out / "table.md", table + "\n")
    write_json(out / "metrics.json", document)
    write_csv(out / "metrics.csv", ["method", *scores.metrics], [[name, *row.values()] for name, row in means.items()])
    write_csv(out / "per_face.csv", ["method", "image", *scores.metrics], scores.rows())
    return table


def _cell(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric.startswith("PSNR") else f"{value:.4f}"
