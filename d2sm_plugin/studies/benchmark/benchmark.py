"""``python tools/benchmark.py``: measures the named cases and prints one table."""

from __future__ import annotations

import logging
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from tqdm import tqdm

from d2sm_plugin.arguments import Parser, device, out_file, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.errors import OptionError
from d2sm_plugin.safe_yaml import parse_yaml
from d2sm_plugin.studies.benchmark.cases import NAMES, build_case, check_name
from d2sm_plugin.studies.benchmark.charts import draw_charts
from d2sm_plugin.studies.benchmark.frontier import EXTRACTOR, HEADERS, measure_frontier, plot_frontier
from d2sm_plugin.studies.benchmark.launches import HEADERS as LAUNCH_HEADERS
from d2sm_plugin.studies.benchmark.launches import launch_counts
from d2sm_plugin.studies.benchmark.measure import Case, Settings, Timing, arithmetic_limit, ratios, run_case
from d2sm_plugin.studies.benchmark.memory import peak_memory
from d2sm_plugin.studies.benchmark.paper import HEADERS as PAPER_HEADERS
from d2sm_plugin.studies.benchmark.paper import paper_table

_HEADERS = ("case", "variant", "wall ms", "CPU ms", "spread %", "wall ratio", "CPU ratio", "peak MiB", "% of limit")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure as the command line says; see ``--help``."""
    parser = Parser(description="Measure variants side by side and print one table.")
    add_custom_import(parser)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(NAMES)}; or paper alone")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--threads", type=whole(1, 1024), default=1, help="threads of the CPU (default: 1)")
    parser.add_argument("--repeats", type=whole(1), default=9, help="rounds, fewer for slow cases (default: 9)")
    parser.add_argument("--small", "--tiny", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument(
        "--plan", action="store_true", help="with paper: count its memory, run nothing (always so on a CPU)"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peak memory (a process for each variant)"
    )
    parser.add_argument("--frontier", nargs="+", type=Path, metavar="IMAGE", help="instead: windows of photographs")
    parser.add_argument("--extractor", metavar="{type: ...}", help="with --frontier: option block of an extractor")
    parser.add_argument("--plot", type=out_file, metavar="FILE", help="with --frontier: draw it")
    parser.add_argument("--launches", action="store_true", help="instead: count the operations that a GPU is given")
    parser.add_argument("--charts", type=Path, metavar="FOLDER", help="instead: draw time and memory of a step there")
    args = parser.parse_args(argv)
    if args.launches:
        sys.stdout.write(tabulate(launch_counts().items(), LAUNCH_HEADERS, tablefmt="github") + "\n")
        return 0
    settings = Settings(torch.device(args.device), args.repeats, args.small)
    torch.set_num_threads(args.threads)
    if args.charts:
        draw_charts(args.charts, settings)
        return 0
    if args.cases == ["paper"]:
        sys.stdout.write(
            tabulate(paper_table(settings, args.plan), PAPER_HEADERS, "github", disable_numparse=True) + "\n"
        )
        return 0
    names = args.cases or list(NAMES)
    for name in names:
        check_name(name)
    logging.getLogger("basicsr").setLevel(logging.WARNING)
    if args.frontier:
        return _frontier(args.frontier, args.extractor, args.plot, settings)
    rows = []
    for name in tqdm(names, unit="case", disable=None):
        case = build_case(name, settings)
        rows += table_rows(name, case, run_case(case, settings), settings, None if args.no_memory else args.threads)
    write = sys.stdout.write
    write(tabulate(rows, _HEADERS, tablefmt="github", disable_numparse=True) + "\n\n")
    write(
        f"{args.device}, {args.threads} thread(s), {platform.processor() or platform.machine()}, torch "
        f"{torch.__version__}, one float32 product of 2048x2048 in between: {arithmetic_limit(settings) / 1e9:.0f} "
        f"GFLOP/s. Medians; ratios are medians over rounds in which all variants of a case take turns. CPU ms is the "
        f"process's own time, which other processes disturb less.\n"
    )
    return 0


def _frontier(images: Sequence[Path], extractor: str | None, plot: Path | None, settings: Settings) -> int:
    block = EXTRACTOR if extractor is None else parse_yaml(extractor, "--extractor")
    if not isinstance(block, Mapping) or "type" not in block:
        raise OptionError(f"--extractor: expected an option block such as '{{type: VGG19Features}}', got '{extractor}'")
    rows = measure_frontier(images, settings, block)
    sys.stdout.write(tabulate(rows, HEADERS, tablefmt="github", floatfmt=(".3g", ".3g", ".3g", ".4f")) + "\n")
    if plot is not None:
        plot_frontier(rows, plot, str(block.get("model", block["type"])))
    return 0


def table_rows(
    name: str, case: Case, timings: dict[str, Timing], settings: Settings, threads: int | None
) -> list[list[str]]:
    """Return the rows of a case.

    Args:
        name: of the case.
        case: the case.
        timings: what :func:`run_case` measured.
        settings: of the run.
        threads: for the processes that measure memory; None leaves memory out.
    """
    limit = arithmetic_limit(settings)
    by_wall, by_cpu = (ratios(timings, case.reference, kind) for kind in ("wall", "cpu"))
    rows = []
    for number, (variant, timing) in enumerate(timings.items()):
        wall, cpu = statistics.median(timing.wall), statistics.median(timing.cpu)
        memory = ""
        if threads is not None and case.in_this_process:
            memory = f"{peak_memory(name, variant, settings, threads):.0f}"
        rows.append(
            [
                f"`{name}` {case.title}" if number == 0 else "",
                variant,
                f"{1000 * wall:.1f}",
                f"{1000 * cpu:.1f}",
                f"{100 * timing.spread():.0f}",
                _ratio(by_wall[variant]),
                _ratio(by_cpu[variant]),
                memory,
                f"{100 * timing.flops / cpu / limit:.0f}" if timing.flops else "",
            ]
        )
    return rows


def _ratio(value: float) -> str:
    """``1/3.2`` where a variant is faster than the reference, ``1.25`` where it is slower."""
    return f"1/{1 / value:.3g}" if value < 0.95 else f"{value:.3g}"
