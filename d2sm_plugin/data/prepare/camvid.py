"""Subcommand ``camvid``: the data set with 11 classes, in either of its usual layouts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from d2sm_plugin.data.image_store import FolderStore
from d2sm_plugin.data.prepare.arguments import add_source, add_windows, read_windows, source_folder
from d2sm_plugin.data.prepare.jobs import Settings, write_lmdb
from d2sm_plugin.data.prepare.pictures import Windows, image_job, label_job, label_table, pair_job_files
from d2sm_plugin.errors import DataError

SPLITS = ("train", "val", "test")
NUM_CLASSES = 11  # sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist
UNLABELLED = 11


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "camvid",
        parents=[common],
        help="CamVid, 11 classes -> OUT/{train,val,test}_{images,labels}.lmdb",
        description="Turn CamVid with its 11 classes into LMDBs; 11 (unlabelled) becomes 255 (ignore). Two layouts are "
        "known: SPLIT/images with SPLIT/labels, and SPLIT with SPLITannot (the one of the SegNet tutorial).",
    )
    add_source(parser, "folder with train, val and test in it")
    add_windows(parser, "images and labels of the split train")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDBs of all splits that are there."""
    settings, windows = Settings.from_arguments(arguments), read_windows(arguments)
    source = source_folder(arguments)
    roots_of = {split: roots for split in SPLITS if (roots := _roots(source, split)) is not None}
    if not roots_of:
        raise DataError(
            f"{source}: expected SPLIT/images with SPLIT/labels, or SPLIT with SPLITannot, in it (SPLIT is train, val "
            f"or test); --src names the folder above these"
        )
    for split in SPLITS:
        if split not in roots_of:
            tqdm.write(f"{source / split}: not there, so the split {split} is left out")
    for split, (image_root, label_root) in roots_of.items():
        _write_split(split, image_root, label_root, settings, windows if split == "train" else None)


def _roots(source: Path, split: str) -> tuple[Path, Path] | None:
    """Return the folders of images and labels of a split, None when the split is not there."""
    images, labels = source / split / "images", source / split / "labels"
    if not images.is_dir():
        images, labels = source / split, source / f"{split}annot"
    if not images.is_dir():
        return None
    if not labels.is_dir():
        raise DataError(f"{labels}: this folder of label maps is missing; the images in {images} need it")
    return images, labels


def _write_split(split: str, image_root: Path, label_root: Path, settings: Settings, windows: Windows | None) -> None:
    images, labels = _files(image_root), _files(label_root)
    table = label_table({value: value for value in range(NUM_CLASSES)}, range(UNLABELLED, UNLABELLED + 1))
    pairs = pair_job_files(images, labels, lambda key: label_root / f"{key}.png")
    level = settings.compress_level
    image_jobs = [image_job(key, image, level, windows) for key, image, _ in pairs]
    label_jobs = [label_job(key, label, image, table, level, windows) for key, image, label in pairs]
    write_lmdb(f"{split}_images.lmdb", image_jobs, settings)
    write_lmdb(f"{split}_labels.lmdb", label_jobs, settings)


def _files(root: Path) -> dict[str, Path]:
    store = FolderStore(root)
    return {key: Path(store.path(key)) for key in store.keys}
