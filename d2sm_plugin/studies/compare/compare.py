"""``python tools/compare.py SUITE --out OUT``: runs a suite, or what is left of it, and writes its report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from d2sm_plugin.arguments import Parser, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.errors import DataError, OptionError, suggest
from d2sm_plugin.studies.compare.cost import cost_lock, measure_cost, read_cost
from d2sm_plugin.studies.compare.definitions import check_definitions, record_definitions
from d2sm_plugin.studies.compare.intervals import compare_pairs, read_measured
from d2sm_plugin.studies.compare.jobs import SuiteRun, make_jobs
from d2sm_plugin.studies.compare.power import power_table
from d2sm_plugin.studies.compare.report import report_lock, write_report
from d2sm_plugin.studies.compare.run_options import check_options, tested_options, training_options
from d2sm_plugin.studies.compare.runner import Outcome, Runner
from d2sm_plugin.studies.compare.scores import columns_of
from d2sm_plugin.studies.compare.submission import CLUSTERS, Submission
from d2sm_plugin.studies.compare.suite import Suite, read_suite

FAILED, INTERRUPTED = 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run suites as the command line says; see ``--help``."""
    args = _parser().parse_args(argv)
    suite, base = read_suite(args.suite, args.force_yml)
    jobs = make_jobs(suite, base, args.out, args.suite)
    chosen = choose(jobs, suite, args.only, args.seeds)
    if args.dry_run:
        rows = [[job.row, job.seed, job.state(), job.folder] for job in chosen]
        print(tabulate(rows, headers=["row", "seed", "state", "folder"], tablefmt="simple"))  # noqa: T201
        missing = check_options(
            suite,
            {variant: training_options(suite, base, variant) for variant in suite.variants},
            args.suite,
            {row: tested_options(suite, base, row) for row in suite.tested},
        )
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataError(f"{args.suite}: {missing[0]}: no such file or folder{more}")
        return 0
    if args.power:
        comparisons = compare_pairs(suite, read_measured(jobs), columns_of(suite))
        if not comparisons:
            raise DataError(
                f"{args.out}: --power: no finished runs of a variant and its baseline at the same seed; run the suite "
                f"first, with two seeds at least"
            )
        print(power_table(comparisons))  # noqa: T201
        return 0
    report = args.out / suite.name
    if not args.rerun:
        check_definitions(jobs, report, args.suite)
    outcome = Outcome()
    if not (args.report_only or args.cost_only):
        with report_lock(report):
            record_definitions(jobs, report)
        start = None if args.submit is None else Submission(args.submit, args.submit_settings, args.out)
        outcome = Runner(chosen, args.jobs, lambda: _write_so_far(suite, jobs, report), start).run()
    _measure_cost(suite, jobs, report, args)
    print(write_report(suite, jobs, report, list(outcome.failed)))  # noqa: T201  # what the tool is for
    print(f"Report: {report}")  # noqa: T201
    if outcome.failed:
        print(f"{len(outcome.failed)} run(s) failed: {', '.join(outcome.failed)}", file=sys.stderr)  # noqa: T201
    return INTERRUPTED if outcome.stopped else FAILED if outcome.failed else 0


def _write_so_far(suite: Suite, jobs: Sequence[SuiteRun], report: Path) -> None:
    write_report(suite, jobs, report, grids=False)


def _measure_cost(suite: Suite, jobs: Sequence[SuiteRun], report: Path, args: argparse.Namespace) -> None:
    """Measure cost if it is asked for or due, one call at a time."""
    if not (args.cost_only or _cost_is_due(suite, jobs, report, args)):
        return
    with cost_lock(args.out):
        if args.cost_only or _cost_is_due(suite, jobs, report, args):  # another call may just have measured it
            measure_cost(suite, jobs, report)


def _cost_is_due(suite: Suite, jobs: Sequence[SuiteRun], report: Path, args: argparse.Namespace) -> bool:
    """Tell whether everything has run, and cost is still to be measured."""
    if args.report_only or args.no_cost or not all(job.finished() for job in jobs):
        return False
    return set(read_cost(suite, jobs, report)) != set(suite.variants)


def choose(
    jobs: Sequence[SuiteRun], suite: Suite, only: Sequence[str] | None, seeds: Sequence[int] | None
) -> list[SuiteRun]:
    """Return the jobs of some rows and seeds; rows that nothing is trained for always.

    Raises:
        OptionError: for a row or seed that the suite does not have.
    """
    for name in only or ():
        if name not in suite.variants and name not in suite.tested:
            raise OptionError(f"--only: no row '{name}'{suggest(name, [*suite.variants, *suite.tested])}")
    known = {job.seed for job in jobs if job.seed is not None}
    for seed in seeds or ():
        if seed not in known:
            raise OptionError(f"--seeds: the suite has no seed {seed}; it has {', '.join(map(str, sorted(known)))}")
    return [
        job
        for job in jobs
        if job.train is None or ((only is None or job.row in only) and (seeds is None or job.seed in seeds))
    ]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="Train and test every variant of a suite, and set them side by side.")
    add_custom_import(parser)
    parser.add_argument("suite", type=Path, metavar="SUITE", help="suite file, or name: table1_camvid")
    parser.add_argument(
        "--out",
        type=out_folder,
        default=Path("comparison"),
        help="folder; suites share its runs (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=whole(1), default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument(
        "--submit",
        choices=CLUSTERS,
        help="hand runs in as jobs of a cluster, through submitit; local tries it out on this machine",
    )
    parser.add_argument(
        "--submit-settings", nargs="+", default=[], metavar="NAME=VALUE",
        help="for the jobs, e.g. timeout_min=600 gpus_per_node=1 slurm_partition=gpu (default: a day, 2 cores)",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows, and those without training")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these seeds alone")
    parser.add_argument("--rerun", action="store_true", help="accept changed variants and run them anew")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list the runs and how far each is, check options and files, and do nothing",
    )
    parser.add_argument("--report-only", action="store_true", help="write the report of what is finished so far")
    parser.add_argument(
        "--power",
        action="store_true",
        help="say how large a difference the finished runs can tell, and more frames or seeds could",
    )
    parser.add_argument(
        "--cost-only", action="store_true", help="measure time and memory of a training step, and report"
    )
    parser.add_argument("--no-cost", action="store_true", help="do not measure them after the last run")
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="a:b=c",
        help="override keys of the suite file, e.g. options:train:total_iter=100 test:val:tile=512",
    )  # fmt: skip
    return parser
