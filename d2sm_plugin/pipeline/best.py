"""The best value of each metric so far."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from d2sm_plugin.pipeline.metrics_file import MetricRow, Results


class BestMetrics:
    """Keeps, for each set and metric, the best value and its step.

    Args:
        lower: names of figures that are minimised; all others are maximised.
        rows: what was measured before.
    """

    def __init__(self, lower: Collection[str], rows: Iterable[MetricRow]) -> None:
        self.lower = lower
        self.values: dict[tuple[str, str], tuple[float, int]] = {}
        #: (set, metric) -> validations since the best one
        self.since: dict[tuple[str, str], int] = {}
        for row in rows:
            self._take(row.dataset, row.metric, row.value, row.step)

    def update(self, step: int, results: Results) -> set[tuple[str, str]]:
        """Take the results of a validation; returns the (set, metric) pairs that are now at their best."""
        return {
            (name, metric)
            for name, (_, metrics) in results.items()
            for metric, value in metrics.items()
            if self._take(name, metric, value, step)
        }

    def _take(self, name: str, metric: str, value: float, step: int) -> bool:
        """Take a value, and tell if it is the best so far."""
        better = self._is_better(name, metric, value)
        if better:
            self.values[name, metric] = (value, step)
        self.since[name, metric] = 0 if better else self.since.get((name, metric), 0) + 1
        return better

    def _is_better(self, name: str, metric: str, value: float) -> bool:
        if math.isnan(value):
            return False
        if (name, metric) not in self.values:
            return True
        best = self.values[name, metric][0]
        return value < best if metric in self.lower else value > best
