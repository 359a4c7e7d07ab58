"""The command line of ``tools/prepare_data.py``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from d2sm_plugin.arguments import Parser, out_folder
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.data.prepare import camvid, cityscapes, demo, dnd, faces, folder, haze, sidd, synthetic_haze
from d2sm_plugin.data.prepare.arguments import positive

#: Each module offers ``add_parser(subparsers, common)``; the parser's default ``run`` takes the arguments.
SUBCOMMANDS = (folder, cityscapes, camvid, demo, haze, synthetic_haze, faces, sidd, dnd)

_EPILOG = """Every LMDB is written beside its final name (NAME.lmdb.partial), verified and then renamed. A command
that was interrupted goes on where it stopped when it is given again; LMDBs that are whole are left as they are."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a data set.

    Raises:
        DataError: when the source cannot be used or the output cannot be written.
    """
    arguments = build_parser().parse_args(argv)
    arguments.run(arguments)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    description = "Turn a data set into LMDBs for training and validation."
    parser = Parser(description=description, epilog=_EPILOG)
    add_custom_import(parser)
    names = "{folder,cityscapes,camvid,demo,haze,synthetic-haze,faces,sidd,dnd}"
    subparsers = parser.add_subparsers(title="data sets", metavar=names, required=True)
    for module in SUBCOMMANDS:
        module.add_parser(subparsers, _common())
    return parser


def _common() -> argparse.ArgumentParser:
    parser = Parser(add_help=False)
    group = parser.add_argument_group("output")
    group.add_argument("--out", required=True, type=out_folder, metavar="DIR", help="folder that receives the LMDBs")
    group.add_argument("--overwrite", action="store_true", help="replace LMDBs that exist (default: refuse)")
    group.add_argument(
        "--workers",
        type=positive,
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="threads (default: %(default)s)",
    )
    group.add_argument(
        "--compress-level",
        type=int,
        choices=range(10),
        default=1,
        metavar="0-9",
        help="PNG compression of images that are encoded anew (default: 1, as in BasicSR)",
    )
    group.add_argument(
        "--verify",
        choices=("sample", "all"),
        default="sample",
        help="what to decode after writing; all bytes are compared in any case (default: %(default)s)",
    )
    return parser
