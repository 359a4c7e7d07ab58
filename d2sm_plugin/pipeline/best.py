"""The best value of each metric so far, read back from ``metrics.csv`` when a run is continued."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class BestMetrics:
    """Keeps, for each set and metric, the best value and its step.

    Args:
        blocks: ``val.metrics``; a metric with ``better: lower`` is minimised, as is the error ``nrmse``; all others
            are maximised.
        file: ``metrics.csv`` of the run, which may not exist yet.
    """

    def __init__(self, blocks: Mapping[str, Mapping[str, Any]], file: Path) -> None:
        self.lower = {"nrmse"} | {name for name, block in blocks.items() if block.get("better") == "lower"}
        self.values: dict[tuple[str, str], tuple[float, int]] = {}
        self.steps: set[int] = set()
        if file.exists():
            with file.open(newline="", encoding="utf-8") as rows:
                for row in csv.DictReader(rows):
                    self._note(int(row["iter"]), row["dataset"], row["metric"], float(row["value"]))

    def measured(self, step: int) -> bool:
        """Whether there are results of that step."""
        return step in self.steps

    def update(self, step: int, results: Mapping[str, tuple[int, Mapping[str, float]]]) -> set[tuple[str, str]]:
        """Take the results of a validation; returns the (set, metric) pairs that are now at their best."""
        return {
            (name, metric)
            for name, (_, metrics) in results.items()
            for metric, value in metrics.items()
            if self._note(step, name, metric, value)
        }

    def _note(self, step: int, name: str, metric: str, value: float) -> bool:
        self.steps.add(step)
        before = self.values.get((name, metric))
        better = not math.isnan(value) and (
            before is None or (value < before[0] if metric in self.lower else value > before[0])
        )
        if better:
            self.values[name, metric] = (value, step)
        return better
