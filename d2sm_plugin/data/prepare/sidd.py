"""Subcommand ``sidd``: the Smartphone Image Denoising Dataset, pictures in sRGB and validation blocks."""

from __future__ import annotations

import argparse
import io
import re
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.picture_head import picture_size
from d2sm_plugin.data.prepare.arguments import add_source, add_windows, read_windows, source_folder
from d2sm_plugin.data.prepare.jobs import RecordJob, Settings, identity_of, write_lmdb
from d2sm_plugin.data.prepare.pictures import image_job
from d2sm_plugin.errors import DataError
from d2sm_plugin.matlab_files import whole_content

_PICTURE = re.compile(r"(?P<scene>\d{4})_(?P<kind>GT|NOISY)_SRGB_(?P<number>\d{3})\.PNG", re.IGNORECASE)
_KINDS = {"lq": "NOISY", "gt": "GT"}
#: Names of the validation files and of the variable in each.
_BLOCKS = {"lq": "ValidationNoisyBlocksSrgb", "gt": "ValidationGtBlocksSrgb"}
_MOST_BYTES = 1 << 30  # of the variable; that of the published files has 251 million: (40, 32, 256, 256, 3)


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "sidd",
        parents=[common],
        help="SIDD, sRGB -> OUT/{train,val}_{lq,gt}.lmdb",
        description="Turn photographs of SIDD (Medium or Small, sRGB) into LMDBs of noisy and clean images with equal "
        "keys, for PairedImageDataset: train from the pictures SCENE_.../SCENE_NOISY_SRGB_NUMBER.PNG with "
        "..._GT_SRGB_..., val from ValidationNoisyBlocksSrgb.mat with ValidationGtBlocksSrgb.mat; whichever is there.",
    )
    add_source(parser, "folder that holds the pictures' folders (Data), the validation files, or both, at any depth")
    add_windows(parser, "the pictures of the split train")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDBs of what is there."""
    settings, windows = Settings.from_arguments(arguments), read_windows(arguments)
    source = source_folder(arguments)
    pictures, blocks = _pictures(source), _block_files(source)
    if not pictures and not blocks:
        raise DataError(
            f"{source}: expected SCENE_NOISY_SRGB_010.PNG with SCENE_GT_SRGB_010.PNG in folders below it, or "
            f"{_BLOCKS['lq']}.mat with {_BLOCKS['gt']}.mat"
        )
    for part in _KINDS if pictures else ():
        jobs = [image_job(key, pair[part], settings.compress_level, windows) for key, pair in pictures.items()]
        write_lmdb(f"train_{part}.lmdb", jobs, settings)
    if blocks:
        read = {part: _read_blocks(blocks[part], name) for part, name in _BLOCKS.items()}
        if read["lq"].shape != read["gt"].shape:
            raise DataError(
                f"{blocks['lq']}: its blocks are {read['lq'].shape}, those of {blocks['gt']} {read['gt'].shape}; they "
                f"must be equal"
            )
        for part, array in read.items():
            write_lmdb(f"val_{part}.lmdb", _block_jobs(array, blocks[part], settings.compress_level), settings)


def _pictures(source: Path) -> dict[str, dict[str, Path]]:
    """Return the files of every pair, ``lq`` and ``gt``, by key: the name of its folder and its number."""
    pairs: dict[str, dict[str, Path]] = {}
    parts = {kind: part for part, kind in _KINDS.items()}
    for file in sorted(source.rglob("*")):
        match = _PICTURE.fullmatch(file.name)
        if match:
            key = f"{file.parent.name}_{match['number']}".replace(".", "-")
            pair, part = pairs.setdefault(key, {}), parts[match["kind"].upper()]
            if part in pair:
                raise DataError(f"{file}: {pair[part]} would have the same key '{key}'; rename one of the folders")
            pair[part] = file
    for pair in pairs.values():
        if len(pair) == 1:
            ((part, file),) = pair.items()
            other = "GT" if part == "lq" else "NOISY"
            raise DataError(f"{file}: its counterpart ({other} in place of {_KINDS[part]}) is missing beside it")
        sizes = [picture_size(pair[part])[::-1] for part in _KINDS]
        if sizes[0] != sizes[1]:
            text = ["{}x{}".format(*size) for size in sizes]
            raise DataError(f"{pair['lq']}: the image is {text[0]} (width x height), {pair['gt']} is {text[1]}; "
                            f"they must be equal")  # fmt: skip
    return pairs


def _block_files(source: Path) -> dict[str, Path]:
    files = {part: sorted(source.rglob(f"{name}.mat")) for part, name in _BLOCKS.items()}
    present = {part: matches[0] for part, matches in files.items() if matches}
    if len(present) == 1:
        ((part, file),) = present.items()
        other = _BLOCKS["gt" if part == "lq" else "lq"]
        raise DataError(f"{file}: its counterpart {other}.mat is missing below {source}")
    return present


def _read_blocks(file: Path, name: str) -> NDArray[np.uint8]:
    """Return blocks uint8 (images, blocks of each, height, width, 3)."""
    from scipy.io import loadmat

    try:
        blocks = loadmat(io.BytesIO(whole_content(file, _MOST_BYTES)), variable_names=[name]).get(name)
        if blocks is None:
            raise ValueError(f"it holds no {name}")
    except (OSError, IndexError, TypeError, ValueError, zlib.error) as error:
        raise DataError(f"{file}: cannot be read ({' '.join(str(error).split())}); download it again") from error
    if blocks.dtype != np.uint8 or blocks.ndim != 5 or blocks.shape[4] != 3:
        raise DataError(f"{file}: {name} is {blocks.dtype} {blocks.shape}; expected uint8 (40, 32, 256, 256, 3)")
    return blocks


def _block_jobs(blocks: NDArray[np.uint8], file: Path, level: int) -> list[RecordJob]:
    jobs = []
    for image, of_image in enumerate(blocks, start=1):
        for number, block in enumerate(of_image, start=1):
            key = f"{image:04d}_{number:02d}"
            jobs.append(
                RecordJob(identity_of(key, f"block level={level}", [file]), partial(_record, key, block, level))
            )
    return jobs


def _record(key: str, pixels: NDArray[np.uint8], level: int) -> list[Record]:
    return [Record(key, encode_png(np.ascontiguousarray(pixels), level), pixels.shape, ".png", level)]
