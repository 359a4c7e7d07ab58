"""The figures of a suite, gathered from its finished runs, and what is computed from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from d2sm_plugin.metrics.better import lower_is_better
from d2sm_plugin.options.data_sets import evaluation_blocks
from d2sm_plugin.options.reader import known_models
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.references import CLEAN_PREFIX
from d2sm_plugin.studies.compare.suite import Suite


@dataclass(frozen=True)
class Column:
    """One test set and metric.

    Attributes:
        test_set: name of the set.
        sigma: its noise level on the 0-255 scale; None where it has none.
        metric: for example ``psnr``.
        lower: whether lower is better.
    """

    test_set: str
    sigma: float | None
    metric: str
    lower: bool


@dataclass(frozen=True)
class Summary:
    """Mean and sample deviation over seeds; the deviation is None for a single seed, or where there is no mean."""

    mean: float
    deviation: float | None
    count: int


class Scores:
    """Measurements of the finished runs of a suite.

    Args:
        suite: the suite.
        jobs: all of it; those that are not finished are left out.
        failed: names of jobs that failed in this call.
    """

    def __init__(self, suite: Suite, jobs: Sequence[SuiteRun], failed: Sequence[str] = ()) -> None:
        self.suite = suite
        self.values: dict[str, dict[int | None, Mapping[str, Mapping[str, float]]]] = {}
        self.expected: dict[str, int] = {}
        self.failed: dict[str, list[int | None]] = {}
        #: what runs were trained with (None: older ones, which do not say) -> variant -> seeds
        self.versions: dict[str | None, dict[str, list[int | None]]] = {}
        for job in jobs:
            if job.kind != "reference":
                self.expected[job.row] = self.expected.get(job.row, 0) + 1
            if job.name in failed:
                self.failed.setdefault(job.row, []).append(job.seed)
            if job.finished():
                self._take(job)
                if job.train is not None:
                    self.versions.setdefault(job.versions(), {}).setdefault(job.row, []).append(job.seed)
        self.columns = columns_of(suite)

    def _take(self, job: SuiteRun) -> None:
        if job.kind != "reference":
            self.values.setdefault(job.row, {})[job.seed] = job.scores()
            return
        scores, rows = job.scores(), self.suite.untrained
        if rows.input is not None:
            restored = {s: {k: v for k, v in m.items() if not k.startswith(CLEAN_PREFIX)} for s, m in scores.items()}
            self._take_reference(rows.input, restored)
        if rows.clean is not None:
            clean = {
                s: {k.removeprefix(CLEAN_PREFIX): v for k, v in m.items() if k.startswith(CLEAN_PREFIX)}
                for s, m in scores.items()
            }
            self._take_reference(rows.clean, clean)

    def _take_reference(self, row: str, scores: dict[str, dict[str, float]]) -> None:
        if any(scores.values()):
            self.values[row] = {None: scores}
            self.expected[row] = 1

    def rows(self) -> list[str]:
        """Return the names of all rows in the order of the table: input, start, tested as it is, variants, clean."""
        kinds = self.suite.untrained
        order = [kinds.input, kinds.start, *self.suite.tested, *self.suite.variants, kinds.clean]
        return [row for row in order if row is not None and (row in self.values or row in self.expected)]

    def of(self, row: str, column: Column) -> dict[int | None, float]:
        """Return a row's values in a column by seed."""
        return {
            seed: scores[column.test_set][column.metric]
            for seed, scores in self.values.get(row, {}).items()
            if column.metric in scores.get(column.test_set, {})
        }

    def summary(self, row: str, column: Column) -> Summary | None:
        """Return mean and deviation over the finished seeds; None where there is nothing."""
        return summarise(list(self.of(row, column).values()))

    def difference(self, row: str, column: Column) -> Summary | None:
        """Return the paired difference from the row's baseline: over the seeds that both have, seed by seed.

        A row that is not trained, so without a seed, is compared with the baseline's mean.
        """
        values = self.of(row, column)
        if row not in self.suite.variants:
            base = self.summary(self.suite.baseline, column)
            return None if base is None else summarise([value - base.mean for value in values.values()])
        of_seed = self.of(self.suite.baseline_of(row), column)
        return summarise([values[seed] - of_seed[seed] for seed in values if seed in of_seed])

    def ranks(self, column: Column) -> dict[str, int]:
        """Return the rank of every variant and tested network among those of its baseline, 1 for the best.

        Equal ones share a rank. It goes by the difference from the baseline at equal seeds, since seeds themselves
        differ: where all variants have the same seeds, that is the order of the means. Before the baseline has results,
        it is the means alone. Networks that are tested as they are rank beside the suite's baseline.
        """
        groups: dict[str, list[str]] = {self.suite.baseline: list(self.suite.tested)}
        for variant in self.suite.variants:
            groups.setdefault(self.suite.baseline_of(variant), []).append(variant)
        ranks: dict[str, int] = {}
        for baseline, rows in groups.items():
            ranks |= self._ranks_beside(baseline, rows, column)
        return ranks

    def _ranks_beside(self, baseline: str, rows: Sequence[str], column: Column) -> dict[str, int]:
        based = bool(self.of(baseline, column))
        means = {}
        for row in rows:
            summary = self.difference(row, column) if based else self.summary(row, column)
            if summary is not None and not math.isnan(summary.mean):
                means[row] = summary.mean if column.lower else -summary.mean
        return {row: 1 + sum(other < mean for other in means.values()) for row, mean in means.items()}


def summarise(values: Sequence[float]) -> Summary | None:
    """Return the mean and the sample standard deviation (n - 1) of some values, None for no values.

    The mean is NaN, without a deviation, where a value is not finite: a training diverged, or a metric has no value.
    """
    if not values:
        return None
    if not all(map(math.isfinite, values)):  # which statistics.stdev cannot take
        return Summary(math.nan, None, len(values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, len(values))


def columns_of(suite: Suite) -> list[Column]:
    """Return the columns of a suite's table: every test set with every metric."""
    datasets = {key: {"name": key, **block} for key, block in suite.test.datasets.items()}
    metrics = list(suite.test.val.get("metrics") or {})
    if suite.test.val.get("segmentation") is not None:
        metrics.append("mIoU")
    measures = {name: better for model in known_models().values() for name, better in model.measures.items()}
    lower = lower_is_better(suite.test.val.get("metrics") or {}, measures)
    return [
        Column(name, block.get("sigma"), metric, metric in lower)
        for name, block in evaluation_blocks(datasets, ("test", "val")).items()
        for metric in suite.columns or metrics
    ]
