"""Subcommand ``cityscapes``: the data set in the layout it is downloaded in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2sm_plugin.data.prepare.arguments import add_source, add_windows, read_windows, source_folder
from d2sm_plugin.data.prepare.jobs import Settings, write_lmdb
from d2sm_plugin.data.prepare.pictures import Windows, image_job, label_job, label_table, pair_job_files
from d2sm_plugin.errors import DataError

SPLITS = ("train", "val", "test")
IMAGE_END, LABEL_END = "_leftImg8bit.png", "_gtFine_labelIds.png"
#: Train id of each label id that counts in the benchmark's 19 classes, road to bicycle (cityscapes-dataset.com).
TRAIN_IDS = dict(
    zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), range(19), strict=True)
)
LABEL_IDS = range(34)


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "cityscapes",
        parents=[common],
        help="Cityscapes -> OUT/{train,val,test}_{images,labels}.lmdb",
        description="Turn Cityscapes, as unpacked from leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, into "
        "LMDBs. Label ids become the 19 train ids, 255 = ignore. Keys are CITY_SEQUENCE_FRAME.",
    )
    add_source(parser, f"folder with leftImg8bit/SPLIT/CITY/*{IMAGE_END} and gtFine/SPLIT/CITY/*{LABEL_END}")
    add_windows(parser, "images and labels of the split train")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDBs of all splits that are there."""
    settings, windows = Settings.from_arguments(arguments), read_windows(arguments)
    source = source_folder(arguments)
    splits = [split for split in SPLITS if (source / "leftImg8bit" / split).is_dir()]
    if not splits:
        raise DataError(f"{source}: expected leftImg8bit/{{train,val,test}} in it; --src names the folder above these")
    for split in SPLITS:
        if split not in splits:
            tqdm.write(f"{source / 'leftImg8bit' / split}: not there, so the split {split} is left out")
    for split in splits:
        _write_split(source, split, settings, windows if split == "train" else None)


def _write_split(source: Path, split: str, settings: Settings, windows: Windows | None) -> None:
    image_root, label_root = source / "leftImg8bit" / split, source / "gtFine" / split
    images = _files(image_root, IMAGE_END)
    if not images:
        raise DataError(f"{image_root}: expected CITY/*{IMAGE_END} in it")
    level = settings.compress_level
    image_jobs = [image_job(key, file, level, windows) for key, file in images.items()]
    if not label_root.is_dir():
        tqdm.write(f"{label_root}: not there, so the split {split} gets images without labels")
        write_lmdb(f"{split}_images.lmdb", image_jobs, settings)
        return

    def expected(key: str) -> Path:
        return label_root / images[key].parent.name / f"{key}{LABEL_END}"

    table = label_table(TRAIN_IDS, LABEL_IDS)
    pairs = pair_job_files(images, _files(label_root, LABEL_END), expected)
    label_jobs = [label_job(key, label, image, table, level, windows) for key, image, label in pairs]
    write_lmdb(f"{split}_images.lmdb", image_jobs, settings)
    write_lmdb(f"{split}_labels.lmdb", label_jobs, settings)


def _files(root: Path, end: str) -> dict[str, Path]:
    return {file.name.removesuffix(end): file for file in sorted(root.glob(f"*/*{end}"))}
