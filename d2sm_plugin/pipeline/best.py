"""The best value of each metric so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from d2sm_plugin.pipeline.metrics_file import MetricRow, Results


class BestMetrics:
    """Keeps, for each set and metric, the best value and its step.

    Args:
        blocks: ``val.metrics``; a metric with ``better: lower`` is minimised, as is the error ``nrmse``; all others
            are maximised.
        rows: what was measured before.
    """

    def __init__(self, blocks: Mapping[str, Mapping[str, Any]], rows: Iterable[MetricRow]) -> None:
        self.lower = {"nrmse"} | {name for name, block in blocks.items() if block.get("better") == "lower"}
        self.values: dict[tuple[str, str], tuple[float, int]] = {}
        for row in rows:
            if self._is_better(row.dataset, row.metric, row.value):
                self.values[row.dataset, row.metric] = (row.value, row.step)

    def update(self, step: int, results: Results) -> set[tuple[str, str]]:
        """Take the results of a validation; returns the (set, metric) pairs that are now at their best."""
        improved = {
            (name, metric): (value, step)
            for name, (_, metrics) in results.items()
            for metric, value in metrics.items()
            if self._is_better(name, metric, value)
        }
        self.values |= improved
        return set(improved)

    def _is_better(self, name: str, metric: str, value: float) -> bool:
        if math.isnan(value):
            return False
        if (name, metric) not in self.values:
            return True
        best = self.values[name, metric][0]
        return value < best if metric in self.lower else value > best
