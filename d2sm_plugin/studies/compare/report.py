"""The report of a suite, from whatever is finished so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from d2sm_plugin.studies.compare.cost import read_cost
from d2sm_plugin.studies.compare.grids import write_grids
from d2sm_plugin.studies.compare.groups import write_groups
from d2sm_plugin.studies.compare.image_table import write_images
from d2sm_plugin.studies.compare.interval_plot import plot_intervals
from d2sm_plugin.studies.compare.intervals import compare_pairs, read_measured, write_intervals
from d2sm_plugin.studies.compare.jobs import LOCK, SuiteRun
from d2sm_plugin.studies.compare.plots import plot_convergence, plot_trade
from d2sm_plugin.studies.compare.scores import Scores
from d2sm_plugin.studies.compare.suite import Suite
from d2sm_plugin.studies.compare.tables import write_tables


def write_report(
    suite: Suite, jobs: Sequence[SuiteRun], folder: Path, failed: Sequence[str] = (), grids: bool = True
) -> str:
    """Write tables, plots and picture grids of the finished runs; calls that do so at one time wait for each other.

    Args:
        suite: the suite.
        jobs: all of it.
        folder: of the report.
        failed: names of jobs that failed in this call.
        grids: picture grids too, for which networks restore a few images.

    Returns:
        The table in Markdown.

    Raises:
        DataError: when a file cannot be written.
    """
    with report_lock(folder):
        return _write(suite, jobs, folder, failed, grids)


def report_lock(folder: Path) -> FileLock:
    """Return the lock of a report's folder, which it makes; to be held while files of the folder are written."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCK)


def _write(suite: Suite, jobs: Sequence[SuiteRun], folder: Path, failed: Sequence[str], grids: bool) -> str:
    scores = Scores(suite, jobs, failed)
    measured = read_measured(jobs)
    intervals = write_intervals(compare_pairs(suite, measured, scores.columns), folder)
    write_images(suite, jobs, scores.columns, folder)
    of_groups = write_groups(suite, measured, scores.columns, folder)
    text = write_tables(scores, read_cost(suite, jobs, folder), folder, intervals, of_groups)
    metrics = list(dict.fromkeys(column.metric for column in scores.columns))
    plot_convergence(suite, jobs, metrics, folder / "convergence.png")
    plot_intervals(intervals, suite.baseline_of, folder / "intervals.png")
    plot_trade(scores, folder / "psnr_miou.png")
    if grids:
        write_grids(suite, jobs, folder)
    return text
