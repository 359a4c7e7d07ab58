"""Subcommand ``demo``: generated street scenes, which need no download."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from d2sm_plugin.arguments import whole
from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.prepare.arguments import positive
from d2sm_plugin.data.prepare.jobs import RecordJob, Settings, identity_of, write_lmdbs
from d2sm_plugin.errors import OptionError
from d2sm_plugin.scenes.street_scenes import TRAIN_SEEDS, VAL_SEEDS, render_scene
from d2sm_plugin.version import __version__

# Scenes of the two splits, apart from each other and from those that the shipped segmentor was trained on.
_SEEDS = {"train": TRAIN_SEEDS, "val": VAL_SEEDS}


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        parents=[common],
        help="generated street scenes -> OUT/{train,val}_{images,labels}.lmdb",
        description="Generate street scenes and their Cityscapes train ids; no download is needed. Equal arguments "
        "give equal scenes.",
    )
    parser.add_argument("--num-train", type=positive, default=200, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--num-val", type=positive, default=20, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=positive, nargs=2, default=(256, 512), metavar=("H", "W"), help="pixels (default: 256 512)"
    )
    parser.add_argument(
        "--seed", type=whole(), default=0, help="first scene of each split, counted from 0 (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the four LMDBs."""
    settings = Settings.from_arguments(arguments)
    size = (arguments.size[0], arguments.size[1])
    counts = {"train": arguments.num_train, "val": arguments.num_val}
    for split, count in counts.items():
        if not 0 <= arguments.seed <= len(_SEEDS[split]) - count:
            raise OptionError(
                f"--seed {arguments.seed}: the split {split} has the scenes 0 to {len(_SEEDS[split]) - 1}"
            )
    for split, count in counts.items():
        seeds = _SEEDS[split][arguments.seed : arguments.seed + count]
        jobs = [scene_job(seed, size, settings.compress_level) for seed in seeds]
        write_lmdbs([f"{split}_images.lmdb", f"{split}_labels.lmdb"], jobs, settings, by_processes=True)


def scene_job(seed: int, size: tuple[int, int], level: int) -> RecordJob:
    """Return the job that stores image and label map of a scene, each in its own LMDB.

    Args:
        seed: of the scene.
        size: height and width.
        level: PNG compression level.
    """
    key = f"scene_{seed:06d}"
    identity = identity_of(key, f"scene {size} level={level} version={__version__}")
    return RecordJob(identity, partial(_records, key, seed, size, level))


def _records(key: str, seed: int, size: tuple[int, int], level: int) -> tuple[list[Record], list[Record]]:
    scene = render_scene(seed, size)
    image = Record(key, encode_png(scene.image, level), (*size, 3), ".png", level)
    label = Record(key, encode_png(scene.label, level), (*size, 1), ".png", level)
    return [image], [label]
