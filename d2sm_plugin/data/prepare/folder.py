"""Subcommand ``folder``: any folder of images."""

from __future__ import annotations

import argparse
from typing import Any

from d2sm_plugin.data.image_store import FolderStore
from d2sm_plugin.data.picture_head import TYPES
from d2sm_plugin.data.prepare.arguments import add_source, add_windows, read_windows, source_folder
from d2sm_plugin.data.prepare.jobs import Settings, write_lmdb
from d2sm_plugin.data.prepare.pictures import image_job


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "folder",
        parents=[common],
        help="a folder of images -> OUT/NAME.lmdb",
        description="Turn a folder of images (searched recursively) into one LMDB. Keys are the paths below the "
        "folder, without extension. PNG and JPEG files that are not cut keep their bytes.",
    )
    add_source(parser, f"folder of pictures ({', '.join(sorted(ending[1:] for ending in TYPES))})")
    parser.add_argument("--name", metavar="NAME", help="of the LMDB (default: the name of the folder)")
    add_windows(parser, "every image")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDB."""
    settings, windows = Settings.from_arguments(arguments), read_windows(arguments)
    source = source_folder(arguments)
    store = FolderStore(source)
    name = (arguments.name or source.resolve().name).removesuffix(".lmdb") + ".lmdb"
    jobs = [image_job(key, store.path(key), settings.compress_level, windows) for key in store.keys]
    write_lmdb(name, jobs, settings)
