"""The command line of ``d2sm report``: one HTML file about a run or a suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d2sm_plugin.arguments import Parser, number, out_file, whole
from d2sm_plugin.errors import DataError
from d2sm_plugin.files import existing_file, write_whole
from d2sm_plugin.studies.report.page import render
from d2sm_plugin.studies.report.run_page import OPTIONS, run_page
from d2sm_plugin.studies.report.suite_page import TABLE, suite_page

_MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Write a report as the command line says; see ``--help``.

    Returns:
        0.

    Raises:
        DataError: when the folder is that of no run or suite, a file in it is damaged, or the report cannot be written.
    """
    parser = Parser(description="Write one HTML file about a training, a test or a suite; it needs no network.")
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="experiments/NAME, results/NAME, or OUT/SUITE of d2sm compare"
    )
    parser.add_argument("--out", type=out_file, default=None, help="the file (default: report.html in the folder)")
    parser.add_argument("--pictures", type=whole(0), default=4, help="pictures of each set (default: %(default)s)")
    parser.add_argument(
        "--max-mb", type=number(0, 200), default=3.0, help="size that pictures may take, in MiB (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    text = report(args.folder, round(args.max_mb * _MIB), args.pictures)
    out = args.out or args.folder.expanduser() / "report.html"
    write_whole(out, text)
    print(f"{out}: {len(text.encode()) / _MIB:.1f} MiB")  # noqa: T201  # the command's result
    return 0


def report(folder: Path, most_bytes: int = 3 * _MIB, count: int = 4) -> str:
    """Return the report of a folder as HTML.

    Args:
        folder: of a training, a test, or the report of a suite.
        most_bytes: of its pictures.
        count: pictures of each set.

    Raises:
        DataError: when it is the folder of neither, or a file in it is damaged.
    """
    options, table = existing_file(folder / OPTIONS), existing_file(folder / TABLE)
    if options is not None:
        return render(run_page(options.parent, most_bytes, count))
    if table is not None:
        return render(suite_page(table.parent, most_bytes, count))
    raise DataError(
        f"{folder}: neither a run ({OPTIONS}) nor the report of a suite ({TABLE}) is in it; give experiments/NAME, "
        f"results/NAME or OUT/SUITE"
    )
