"""Subcommand ``haze``: I-HAZE, O-HAZE and RESIDE in the layouts they are downloaded in."""

from __future__ import annotations

import argparse
from typing import Any

from d2sm_plugin.data.decoding import decode_rgb, encode_png
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.picture_head import read_picture_bytes
from d2sm_plugin.data.prepare.arguments import add_source, add_windows, positive, read_windows, source_folder
from d2sm_plugin.data.prepare.haze_pairs import HazePair, find_splits, transmission_of
from d2sm_plugin.data.prepare.jobs import RecordJob, Settings, identity_of, write_lmdb
from d2sm_plugin.data.prepare.pictures import Windows, image_job


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "haze",
        parents=[common],
        help="I-HAZE, O-HAZE, RESIDE/SOTS -> OUT/{train,test}_{lq,gt}.lmdb",
        description="Turn a set of hazy and clear images into LMDBs with equal keys, for PairedImageDataset. I-HAZE "
        "and O-HAZE are told by their file names (01_indoor_hazy.jpg with 01_indoor_GT.jpg) and split as in the D2SM "
        "paper: the first 30 (40) images for training, the last 5 for testing. RESIDE's parts are told by their "
        "folders (hazy/ID_k.png with gt/ID.png or clear/ID.png); each hazy image becomes a record, with a copy of its "
        "clear one. SOTS' clear indoor images lose the frame of 10 pixels that their hazy ones lack.",
    )
    add_source(parser, "folder of the unpacked set")
    parser.add_argument(
        "--train-count", type=positive, metavar="N", help="I-HAZE, O-HAZE: images for training (default: 30 or 40)"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="name for a RESIDE part (default: test)"
    )
    parser.add_argument(
        "--transmission",
        action="store_true",
        help="RESIDE's ITS: write OUT/SPLIT_trans.lmdb too, its transmission maps (trans/ID_k.png for hazy/ID_k_*.png)",
    )
    add_windows(parser, "the split train")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDBs of every split."""
    settings, windows = Settings.from_arguments(arguments), read_windows(arguments)
    splits = find_splits(source_folder(arguments), arguments.train_count, arguments.split)
    maps = {
        split: [transmission_of(pair) for pair in pairs] for split, pairs in splits.items() if arguments.transmission
    }
    for split, pairs in splits.items():
        cut = windows if split == "train" else None
        level = settings.compress_level
        write_lmdb(f"{split}_lq.lmdb", [image_job(pair.key, pair.hazy, level, cut) for pair in pairs], settings)
        write_lmdb(f"{split}_gt.lmdb", [_clear_job(pair, level, cut) for pair in pairs], settings)
        if split in maps:
            jobs = [image_job(pair.key, file, level, cut) for pair, file in zip(pairs, maps[split], strict=True)]
            write_lmdb(f"{split}_trans.lmdb", jobs, settings)


def _clear_job(pair: HazePair, level: int, windows: Windows | None) -> RecordJob:
    if not pair.frame:
        return image_job(pair.key, pair.clear, level, windows)

    def make() -> list[Record]:
        pixels = decode_rgb(read_picture_bytes(pair.clear), str(pair.clear))
        pixels = pixels[pair.frame : -pair.frame, pair.frame : -pair.frame]
        if windows is None:
            return [Record(pair.key, encode_png(pixels, level), pixels.shape, ".png", level)]
        cut = windows.cut(pixels, str(pair.clear))
        return [
            Record(f"{pair.key}_s{number:03d}", encode_png(window, level), window.shape, ".png", level)
            for number, window in enumerate(cut, start=1)
        ]

    return RecordJob(identity_of(pair.key, f"clear frame={pair.frame} level={level} {windows}", [pair.clear]), make)
