"""Subcommand ``faces``: faces cut out of photographs, large and small, with their landmarks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from d2sm_plugin.arguments import number
from d2sm_plugin.data.decoding import decode_rgb, encode_png
from d2sm_plugin.data.face_scaling import REDUCTIONS, reduce_face
from d2sm_plugin.data.image_store import FolderStore
from d2sm_plugin.data.keys import check_name
from d2sm_plugin.data.lmdb_progress import Record
from d2sm_plugin.data.picture_head import read_picture_bytes
from d2sm_plugin.data.prepare.arguments import add_source, positive, source_folder
from d2sm_plugin.data.prepare.face_crop import FaceArea, square_around_landmarks, square_of_box, whole_box
from d2sm_plugin.data.prepare.face_labels import FaceLabel, add_boxes, add_splits, read_labels
from d2sm_plugin.data.prepare.jobs import RecordJob, Settings, identity_of, write_lmdb
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.faces.landmark_table import write_landmark_table
from d2sm_plugin.faces.landmarks import POINT_SETS, PointSet, point_set

_EPILOG = """DICNet's data: --landmarks train_info_list_68.pkl --split train; its boxes are used, and scaled as
DICNet's loader does it; the file is the split: 168,854 and 1,000 faces of CelebA, 2,005 and 50 of Helen. CelebA as
published: --landmarks list_landmarks_celeba.txt --boxes list_bbox_celeba.txt --splits list_eval_partition.txt."""


def add_parser(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "faces",
        parents=[common],
        help="faces with landmarks -> OUT/SPLIT_{hr,lr}.lmdb, SPLIT_landmarks.csv",
        description="Cut faces out of photographs, scale them to one size, reduce them, and write both as LMDBs with a "
        "table of the landmarks in pixels of the large ones.",
        epilog=_EPILOG,
    )
    add_source(parser, "folder of the photographs")
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--landmarks",
        required=True,
        metavar="PATH",
        help="CSV (image,x0,y0,...), CelebA's list_landmarks*.txt, DICNet's .pkl, or a folder of .pts files",
    )
    labels.add_argument("--points", choices=sorted(POINT_SETS), help="set of landmarks (default: by their number)")
    labels.add_argument("--boxes", metavar="FILE", help="CelebA's list_bbox_celeba.txt")
    labels.add_argument("--splits", metavar="FILE", help="CelebA's list_eval_partition.txt, or 'IMAGE SPLIT' lines")
    labels.add_argument(
        "--split", default="all", metavar="NAME", help="of faces whose labels name none (default: %(default)s)"
    )
    cut = parser.add_argument_group("faces")
    cut.add_argument(
        "--crop",
        choices=("box", "square", "landmarks"),
        help="the box, whatever its shape, scaled to a square (default for DICNet's lists); the square over the box "
        "(default for other boxes); or a square around the landmarks (default without boxes)",
    )
    cut.add_argument(
        "--margin",
        type=number(0, above=True),
        metavar="F",
        help="side of a square: in units of the box (1.0) or the landmarks (1.3)",
    )
    cut.add_argument("--align", action="store_true", help="around the landmarks: turn the face so that eyes are level")
    cut.add_argument("--size", type=positive, default=128, metavar="PIXELS", help="of the large faces (default: 128)")
    cut.add_argument("--scale", type=positive, default=8, metavar="N", help="large : small (default: %(default)s)")
    cut.add_argument(
        "--reduction",
        choices=REDUCTIONS,
        help="bicubic filter of the small faces: MATLAB's imresize (default), or PIL's (default for DICNet's lists)",
    )
    cut.add_argument(
        "--native",
        action="store_true",
        help="keep the faces as large as in the photographs, for FaceDataset to distort and scale: "
        "OUT/SPLIT_native.lmdb, SPLIT_native_landmarks.csv",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write the LMDBs and tables of all splits."""
    settings, source = Settings.from_arguments(arguments), source_folder(arguments)
    if arguments.size % arguments.scale:
        raise OptionError(f"--size {arguments.size}: it must be a multiple of --scale {arguments.scale}")
    labels = read_labels(arguments.landmarks)
    if arguments.boxes is not None:
        labels = add_boxes(labels, arguments.boxes)
    if arguments.splits is not None:
        labels = add_splits(labels, arguments.splits)
    scheme = _scheme(labels, arguments)
    files = _match_files(labels, FolderStore(source), arguments.landmarks)
    areas = {name: _area(name, label, scheme, arguments) for name, label in labels.items()}
    splits: dict[str, list[str]] = {}
    for name, label in labels.items():
        split = check_name(label.split or arguments.split, f"{arguments.splits or arguments.landmarks}: split")
        splits.setdefault(split, []).append(name)
    for split, names in sorted(splits.items()):
        _write_split(split, {name: files[name] for name in names}, labels, areas, arguments, settings)


def _scheme(labels: Mapping[str, FaceLabel], arguments: argparse.Namespace) -> PointSet | None:
    """The set of landmarks that is named, or the one with as many points, if there is one."""
    count = len(next(iter(labels.values())).points)
    if arguments.points is not None:
        named = point_set(arguments.points, "--points")
        if named.count != count:
            raise DataError(f"{arguments.landmarks}: {count} landmarks a face, but {named.name} has {named.count}")
        return named
    scheme = next((scheme for scheme in POINT_SETS.values() if scheme.count == count), None)
    if scheme is None and arguments.align:
        raise OptionError(f"--align: it needs to know the eyes, and no set of {count} landmarks is known")
    return scheme


def _match_files(labels: Mapping[str, FaceLabel], store: FolderStore, source: str) -> dict[str, tuple[str, Path]]:
    """Key and file of every labelled image."""
    files = {}
    for name in labels:
        key = name if name in store else name.rpartition(".")[0]
        if key not in store:
            raise DataError(f"{store.root}: there is no image '{name}', which {source} has landmarks of")
        files[name] = (key, Path(store.path(key)))
    return files


def _of_dicnet(arguments: argparse.Namespace) -> bool:
    """Tell whether the labels are one of the lists of DICNet's authors, boxes included."""
    return Path(arguments.landmarks).suffix == ".pkl" and arguments.boxes is None


def _area(name: str, label: FaceLabel, scheme: PointSet | None, arguments: argparse.Namespace) -> FaceArea:
    where = f"{arguments.landmarks}: '{name}'"
    of_box = "box" if _of_dicnet(arguments) else "square"
    crop = arguments.crop or (of_box if label.box is not None else "landmarks")
    if crop == "landmarks":
        turn = scheme if arguments.align else None
        return square_around_landmarks(label.points, arguments.margin or 1.3, turn, where)
    if label.box is None:
        raise DataError(f"{where}: there is no box; give --boxes, or cut by --crop landmarks")
    if arguments.align:
        raise OptionError("--align: faces are turned with --crop landmarks only")
    if crop == "square":
        return square_of_box(label.box, arguments.margin or 1.0, where)
    if arguments.margin is not None:
        raise OptionError("--margin: a box is taken as it is; give --crop square or --crop landmarks")
    return whole_box(label.box, where)


def _write_split(
    split: str,
    files: Mapping[str, tuple[str, Path]],
    labels: Mapping[str, FaceLabel],
    areas: Mapping[str, FaceArea],
    arguments: argparse.Namespace,
    settings: Settings,
) -> None:
    size = None if arguments.native else arguments.size
    reduction = arguments.reduction or ("pil" if _of_dicnet(arguments) else "matlab")

    def write(name: str, scale: int) -> None:
        jobs = [_face_job(*files[face], areas[face], size, scale, reduction, settings.compress_level) for face in files]
        write_lmdb(f"{name}.lmdb", jobs, settings)

    if arguments.native:
        split = f"{split}_native"
        write(split, 1)
    else:
        write(f"{split}_hr", 1)
        write(f"{split}_lr", arguments.scale)
    table = {files[name][0]: areas[name].to_crop(labels[name].points, size) for name in files}
    path = settings.out / f"{split}_landmarks.csv"
    write_landmark_table(path, table, settings.overwrite)
    scaled = (areas[name].to_crop(labels[name].points, arguments.size) for name in files)
    outside = sum(bool(((points < 0) | (points > arguments.size - 1)).any()) for points in scaled)
    remark = f"; of {outside} faces some lie outside the square" if outside else ""
    tqdm.write(f"{path}: landmarks of {len(table)} faces{remark}")


def _face_job(
    key: str, file: Path, area: FaceArea, size: int | None, scale: int, reduction: str, level: int
) -> RecordJob:
    def make() -> list[Record]:
        face = area.cut(decode_rgb(read_picture_bytes(file), str(file)), size)
        face = reduce_face(face, scale, reduction) if scale > 1 else face
        return [Record(key, encode_png(np.ascontiguousarray(face), level), face.shape, ".png", level)]

    by = " pil" if scale > 1 and reduction == "pil" else ""
    return RecordJob(identity_of(key, f"face {area} size={size} scale={scale}{by} level={level}", [file]), make)
