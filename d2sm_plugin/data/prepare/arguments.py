"""Command line arguments that several subcommands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from d2sm_plugin.arguments import whole
from d2sm_plugin.data.prepare.pictures import Windows
from d2sm_plugin.errors import DataError, OptionError

#: Whole numbers above 0.
positive = whole(1)


def add_source(parser: argparse.ArgumentParser, content: str) -> None:
    """Add ``--src``."""
    parser.add_argument("--src", required=True, metavar="DIR", help=content)


def add_windows(parser: argparse.ArgumentParser, content: str) -> None:
    """Add ``--crop-size`` and ``--step``."""
    group = parser.add_argument_group("windows", f"cut {content} into windows, which training reads faster")
    group.add_argument("--crop-size", type=positive, metavar="PIXELS", help="side of a window (default: do not cut)")
    group.add_argument("--step", type=positive, metavar="PIXELS", help="between windows (default: the crop size)")


def read_windows(arguments: argparse.Namespace) -> Windows | None:
    """Return the windows that the arguments ask for, None for whole images."""
    if arguments.crop_size is None:
        if arguments.step is not None:
            raise OptionError("--step: it needs --crop-size, the side of the windows")
        return None
    return Windows(arguments.crop_size, arguments.step or arguments.crop_size)


def source_folder(arguments: argparse.Namespace) -> Path:
    """Return ``--src``; DataError when there is no such folder."""
    source = Path(arguments.src)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; --src names the folder of the data set")
    return source
