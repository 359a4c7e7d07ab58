"""Subcommand ``synthetic-haze``: hazy and clear pairs from images with depth, which need no download."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.arguments import MAX_SEED, whole
from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.haze import INDOOR, STREET, HazeRange, add_random_haze, stereo_pair_with_depth
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.prepare.arguments import positive
from d2sm_plugin.data.prepare.jobs import RecordJob, Settings, identity_of, write_lmdb
from d2sm_plugin.errors import OptionError
from d2sm_plugin.scenes.street_scenes import render_scene
from d2sm_plugin.version import __version__

_SPLITS = ("train", "test")
#: Clear image uint8 RGB (H, W, 3) and depth (H, W) in metres, from a seed.
Source = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.float32]]]


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "synthetic-haze",
        parents=[common],
        help="generated hazy pairs -> OUT/{train,test}_{lq,gt}.lmdb",
        description="Put random haze, I = J t + A (1 - t) with t = exp(-beta depth), on generated street scenes, or on "
        "windows of scikit-image's stereo photograph, both of known depth. Equal arguments give equal pairs.",
    )
    parser.add_argument("--source", choices=("scenes", "stereo"), default="scenes", help="(default: %(default)s)")
    parser.add_argument("--num-train", type=positive, default=200, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--num-test", type=positive, default=20, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=positive, nargs=2, default=(256, 256), metavar=("H", "W"), help="pixels (default: 256 256)"
    )
    parser.add_argument(
        "--beta", type=float, nargs=2, metavar=("LOW", "HIGH"), help="density in 1/metre (default: by source)"
    )
    parser.add_argument(
        "--airlight", type=float, nargs=2, default=(0.7, 1.0), metavar=("LOW", "HIGH"), help="(default: 0.7 1.0)"
    )
    parser.add_argument("--tint", type=float, default=0.0, help="colour cast of the airlight (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0, MAX_SEED), default=0, help="of the first pair (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the four LMDBs."""
    settings = Settings.from_arguments(arguments)
    size = (arguments.size[0], arguments.size[1])
    source, usual = (_scenes(size), STREET) if arguments.source == "scenes" else (_stereo(size), INDOOR)
    beta = tuple(arguments.beta) if arguments.beta else usual.beta
    pairs = HazyPairs(
        source, HazeRange(beta, tuple(arguments.airlight), arguments.tint), f"{arguments.source} {size}", settings
    )
    first = arguments.seed
    for split, count in zip(_SPLITS, (arguments.num_train, arguments.num_test), strict=True):
        seeds = range(first, first + count)
        write_lmdb(f"{split}_lq.lmdb", [pairs.job(seed, hazy=True) for seed in seeds], settings)
        write_lmdb(f"{split}_gt.lmdb", [pairs.job(seed, hazy=False) for seed in seeds], settings)
        first += count  # no pair is in both splits


class HazyPairs:
    """Maker of both images of a pair from its seed.

    Args:
        source: gives image and depth.
        ranges: what the haze is drawn from.
        how: what the source makes, for the identity of the records.
        settings: of the run.
    """

    def __init__(self, source: Source, ranges: HazeRange, how: str, settings: Settings) -> None:
        self._source = source
        self._ranges = ranges
        self._how = f"{how} {ranges} level={settings.compress_level} version={__version__}"
        self._level = settings.compress_level

    def job(self, seed: int, hazy: bool) -> RecordJob:
        """Return the job that stores the hazy or the clear image of a pair."""
        key = f"haze_{seed:06d}"

        def make() -> list[Record]:
            image, depth = self._source(seed)
            if hazy:
                haze = add_random_haze(image, depth, self._ranges, np.random.default_rng(seed))
                image = np.round(haze.image * 255).astype(np.uint8)
            return [Record(key, encode_png(image, self._level), image.shape, ".png", self._level)]

        return RecordJob(identity_of(key, f"{'hazy' if hazy else 'clear'} {self._how}"), make)


def _scenes(size: tuple[int, int]) -> Source:
    def make(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        scene = render_scene(seed, size)
        return scene.image, scene.depth

    return make


def _stereo(size: tuple[int, int]) -> Source:
    """Windows of the photograph at random places, each mirrored or not."""
    image, depth = stereo_pair_with_depth()
    height, width = size
    if height > depth.shape[0] or width > depth.shape[1]:
        raise OptionError(f"--size {height} {width}: the stereo photograph is {depth.shape[0]} by {depth.shape[1]}")

    def make(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        generator = np.random.default_rng((seed, 1))
        top = generator.integers(0, depth.shape[0] - height + 1)
        left = generator.integers(0, depth.shape[1] - width + 1)
        window = (slice(top, top + height), slice(left, left + width))
        step = -1 if generator.random() < 0.5 else 1
        return np.ascontiguousarray(image[window][:, ::step]), np.ascontiguousarray(depth[window][:, ::step])

    return make
