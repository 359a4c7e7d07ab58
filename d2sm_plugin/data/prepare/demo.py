"""Subcommand ``demo``: generated street scenes, which need no download."""

from __future__ import annotations

import argparse
from typing import Any

from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.prepare.arguments import positive
from d2sm_plugin.data.prepare.jobs import Job, Settings, identity_of, write_lmdb
from d2sm_plugin.data.street_scenes import TRAIN_SEEDS, VAL_SEEDS, render_scene
from d2sm_plugin.errors import OptionError
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
        "--seed", type=int, default=0, help="first scene of each split, counted from 0 (default: %(default)s)"
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
        scenes = Scenes(size, settings.compress_level)
        seeds = _SEEDS[split][arguments.seed : arguments.seed + count]
        write_lmdb(f"{split}_images.lmdb", [scenes.image_job(seed) for seed in seeds], settings)
        write_lmdb(f"{split}_labels.lmdb", [scenes.label_job(seed) for seed in seeds], settings)


class Scenes:
    """Renders each scene once and keeps its label map, encoded, until that is asked for.

    Args:
        size: (height, width).
        level: PNG compression level.
    """

    def __init__(self, size: tuple[int, int], level: int) -> None:
        self._size = size
        self._level = level
        self._labels: dict[int, bytes] = {}

    def image_job(self, seed: int) -> Job:
        """Return the job that stores the image of a scene."""

        def make() -> list[Record]:
            return [self._record(seed, self._render(seed), 3)]

        return Job(self._identity(seed, "image"), make)

    def label_job(self, seed: int) -> Job:
        """Return the job that stores the label map of a scene."""

        def make() -> list[Record]:
            if seed not in self._labels:
                self._render(seed)
            return [self._record(seed, self._labels.pop(seed), 1)]

        return Job(self._identity(seed, "label"), make)

    def _render(self, seed: int) -> bytes:
        scene = render_scene(seed, self._size)
        self._labels[seed] = encode_png(scene.label, self._level)
        return encode_png(scene.image, self._level)

    def _record(self, seed: int, data: bytes, channels: int) -> Record:
        return Record(_key(seed), data, (*self._size, channels), ".png", self._level)

    def _identity(self, seed: int, what: str) -> str:
        return identity_of(_key(seed), f"scene {what} {self._size} level={self._level} version={__version__}")


def _key(seed: int) -> str:
    return f"scene_{seed:06d}"
