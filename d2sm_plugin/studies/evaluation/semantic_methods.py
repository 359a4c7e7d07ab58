"""The rows of a comparison of features: noisy images, and restored ones of networks and of folders, by noise level."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from d2sm_plugin.arguments import device, number, whole
from d2sm_plugin.data.image_store import is_lmdb, open_images
from d2sm_plugin.data.noise import noise_for_key
from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.metrics.images import to_uint8
from d2sm_plugin.studies.evaluation.methods import Image, Method, spread, stored_method
from d2sm_plugin.studies.evaluation.seg_methods import CLEAN, noisy_and_restored

NOISY = "noisy"
_PLACE = "{sigma}"


@dataclass(frozen=True)
class Material:
    """Images and methods that are compared.

    Attributes:
        keys: of the images.
        clean: gives the clear images.
        rows: the methods at each noise level (0-255 scale); the level None stands for images that were degraded
            elsewhere.
    """

    keys: list[str]
    clean: Method
    rows: dict[float | None, list[Method]]


def add_material_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`gather_material` reads."""
    add = parser.add_argument
    add("--clean", required=True, metavar="PATH", help="clear images: a folder or an LMDB")
    add(
        "--sigma",
        type=number(0, 255, above=True),
        nargs="+",
        metavar="S",
        help="noise levels on the 0-255 scale; each gets a noisy row",
    )
    add(
        "--restored",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help=f"weights of the network of --opt, or restored images (folder or LMDB; {_PLACE} stands for the noise "
        f"level); repeat to compare",
    )
    add("--opt", metavar="YML", help="option file of the network that the weights belong to")
    add(
        "--extractor",
        action="append",
        required=True,
        metavar="[NAME=]SOURCE",
        help="features and samples: a training option file with D2SMLoss, a YAML file with its block, or {...}; repeat",
    )
    add("--images", type=whole(1), metavar="N", help="compare N images, evenly spread over the set (default: all)")
    add("--device", type=device, default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")


def gather_material(arguments: argparse.Namespace) -> Material:
    """Return what the command line says is compared.

    Raises:
        OptionError: for options that cannot be used or combined.
        DataError: when images are missing.
        CheckpointError: when weights do not fit the network.
    """
    _check(arguments)
    store = open_images(arguments.clean)
    clean = Method(CLEAN, store.read_rgb, store.describe)
    chosen = spread(store.keys, arguments.images or len(store))
    levels: Sequence[float | None] = arguments.sigma or [None]
    rows: dict[float | None, list[Method]] = {
        level: [] if level is None else [noisy_method(clean, level)] for level in levels
    }
    for name, path in _named_paths(arguments.restored):
        if os.path.isdir(path.replace(_PLACE, _shown(levels[0]))) or is_lmdb(path):
            if len(levels) > 1 and _PLACE not in path:
                raise OptionError(
                    f"--restored {name}={path}: one folder cannot hold what was restored at {len(levels)} noise "
                    f"levels; write {_PLACE} in its path where the level stands"
                )
            for level in levels:
                folder = open_images(path.replace(_PLACE, _shown(level)))
                rows[level].append(stored_method(name, folder, store.keys, store.root))
        else:
            for level, method in _restored_by_network(name, path, clean, arguments).items():
                rows[level].append(method)
    if not any(rows.values()):
        raise OptionError("there is nothing to compare; give noise levels with --sigma, or --restored NAME=PATH")
    return Material([key for key in store.keys if key in chosen], clean, rows)


def noisy_method(clean: Method, sigma: float) -> Method:
    """Return the method of noisy images: the noise of an image follows from its key; clipped and rounded to 8 bit."""

    def read(key: str) -> Image:
        image = torch.from_numpy(clean.read(key)).permute(2, 0, 1).float() / 255
        return to_uint8(image + noise_for_key(key, sigma, tuple(image.shape)))

    return Method(NOISY, read, lambda key: f"{clean.describe(key)} (noisy {sigma:g})")


def _restored_by_network(
    name: str, path: str, clean: Method, arguments: argparse.Namespace
) -> dict[float | None, Method]:
    if not path.startswith(("http://", "https://")) and not os.path.isfile(path):
        raise CheckpointError(f"--restored {name}={path}: neither weights nor a folder of images are there")
    if not (arguments.opt and arguments.sigma):
        raise OptionError(
            f"--restored {name}={path}: weights need --opt, the option file of their network, and noise levels with "
            f"--sigma"
        )
    made = noisy_and_restored(clean, arguments.opt, path, arguments.sigma, arguments.device)
    restored = made[2::2]  # behind the clean row come pairs of a noisy and a restored one
    return {level: replace(method, name=name) for level, method in zip(arguments.sigma, restored, strict=True)}


def _named_paths(entries: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not (name and separator and path):
            raise OptionError(f"--restored {entry}: expected NAME=PATH, for example L1=net_g_latest.safetensors")
        pairs.append((name, path))
    names = [NOISY, CLEAN, *(name for name, _ in pairs)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(f"--restored: the name '{repeated[0]}' is taken twice; give every row a name of its own")
    return pairs


def _check(arguments: argparse.Namespace) -> None:
    sigmas = arguments.sigma or []
    if len(set(sigmas)) < len(sigmas):
        raise OptionError("--sigma: give every noise level once")


def _shown(level: float | None) -> str:
    return "" if level is None else f"{level:g}"
