"""Restored faces of several methods in one table: PSNR, SSIM and the error of the landmarks found in them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils.matlab_functions import imresize
from numpy.typing import NDArray
from tqdm import tqdm

from d2sm_plugin.arguments import Parser, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.data.image_store import ImageStore, open_images
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.faces.face_pictures import draw_points
from d2sm_plugin.faces.landmark_table import read_landmark_table
from d2sm_plugin.faces.landmarks import POINT_SETS
from d2sm_plugin.metrics.landmark_finder import LandmarkFinder
from d2sm_plugin.metrics.nrmse_metric import REPORTED, normalisers_of, nrmse
from d2sm_plugin.pipeline.pictures import side_by_side, write_png
from d2sm_plugin.studies.evaluation.comparison_pictures import stack
from d2sm_plugin.studies.evaluation.face_report import FaceScores, write_face_report
from d2sm_plugin.studies.evaluation.methods import Method, read_like, spread
from d2sm_plugin.studies.evaluation.restoration_eval import CLEAN, gather_methods

#: Name of the row that the tool makes of the small faces.
BICUBIC = "bicubic"
_TRUE, _FOUND = (0, 255, 0), (255, 0, 0)
_ENLARGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Compare restored faces as the command line says; see ``--help``."""
    arguments = _parser().parse_args(argv)
    clean = open_images(arguments.clean)
    landmarks = read_landmarks(arguments.landmarks, clean)
    finder = LandmarkFinder(arguments.alignment, arguments.points)
    methods = face_methods(clean, arguments.restored, arguments.lq)
    out = Path(arguments.out)
    scores = evaluate_faces(
        clean, landmarks, methods, finder, arguments.crop_border, out / "pictures", arguments.pictures
    )
    print(write_face_report(scores, out))  # noqa: T201  # the table is what the tool is for
    return 0


def read_landmarks(path: str | Path, clean: ImageStore) -> dict[str, NDArray[np.float32]]:
    """Return the true landmarks of every face by key.

    Raises:
        DataError: when the table lacks a face.
    """
    table = read_landmark_table(path)
    rows = {os.path.splitext(name)[0]: row.points for name, row in table.items()}
    rows |= {name: row.points for name, row in table.items() if name in clean}
    missing = [key for key in clean.keys if key not in rows]
    if missing:
        raise DataError(f"{path}: no landmarks of {len(missing)} faces in {clean.root} (first: '{missing[0]}')")
    return rows


def face_methods(clean: ImageStore, restored: Sequence[str], lq: str | None) -> list[Method]:
    """Return the rows of the table: bicubic enlargement of ``lq``, what the user names, and the clear faces.

    Raises:
        OptionError: for a malformed or repeated name.
        DataError: when a set lacks a face.
    """
    methods = []
    if lq is not None:
        (small,) = gather_methods(clean, [], (BICUBIC, lq), None)
        methods.append(Method(BICUBIC, lambda key: enlarge(small.read(key), clean, key), small.describe))
    if restored:
        methods += gather_methods(clean, restored, None, None)
    names = [method.name for method in methods]
    if BICUBIC in names[1:]:
        raise OptionError(f"--restored {BICUBIC}=...: this name is the one of the row that --lq makes; take another")
    return [*methods, Method(CLEAN, clean.read_rgb, clean.describe)]


def enlarge(small: NDArray[np.uint8], clean: ImageStore, key: str) -> NDArray[np.uint8]:
    """Return a small face enlarged to its clear one's size as MATLAB's bicubic ``imresize`` does.

    Raises:
        DataError: when the sizes are no whole multiple of each other.
    """
    height, width = clean.read_rgb(key).shape[:2]
    scale = height // small.shape[0]
    if (small.shape[0] * scale, small.shape[1] * scale) != (height, width):
        raise DataError(
            f"{clean.describe(key)}: it is {width}x{height} (width x height), the small face "
            f"{small.shape[1]}x{small.shape[0]}; one must be a whole multiple of the other"
        )
    large = imresize(small.astype(np.float32) / 255, scale)
    return (np.clip(large, 0, 1) * 255).round().astype(np.uint8)


def evaluate_faces(
    clean: ImageStore,
    landmarks: dict[str, NDArray[np.float32]],
    methods: Sequence[Method],
    finder: LandmarkFinder,
    crop_border: int,
    pictures: Path | None,
    max_pictures: int,
) -> FaceScores:
    """Measure every face of every method.

    Args:
        clean: the clear faces.
        landmarks: true ones by key, in pixels of the clear faces.
        methods: what is compared.
        finder: the alignment network.
        crop_border: pixels left out on each side for PSNR and SSIM.
        pictures: folder for pictures with true (green) and found (red) landmarks; None writes none.
        max_pictures: faces to show, spread evenly over the set.

    Raises:
        DataError: when a face does not decode or has another size than the clear one.
    """
    units = normalisers_of(finder.scheme)
    notes = [
        f"PSNR and SSIM of 8-bit images without a border of {crop_border} pixels, on the luma (Y, BT.601) and on RGB.",
        f"NRMSE of {finder.scheme.count} landmarks, normalised by {', '.join(units)}; {REPORTED} is the one to report.",
    ]
    scores = FaceScores([method.name for method in methods], notes)
    shown = spread(clean.keys, max_pictures)
    rows = []
    for key in tqdm(clean.keys, desc="comparing", unit="face", dynamic_ncols=True):
        reference = clean.read_rgb(key)
        faces = {method.name: read_like(method, key, reference) for method in methods}
        points = dict(zip(faces, finder.find(np.stack(list(faces.values()))), strict=True))
        for name, face in faces.items():
            errors = {f"NRMSE {unit}": nrmse(points[name], landmarks[key], finder.scheme.name, unit) for unit in units}
            scores.add(name, key, {**measure_face(face, reference, crop_border), **errors})
        if pictures is not None and key in shown:
            rows.append(_picture(key, faces, points, landmarks[key], scores))
            write_png(pictures / f"{key}.png", rows[-1])
    if pictures is not None and rows:
        write_png(pictures / "comparison.png", stack(rows))
    return scores


def measure_face(face: NDArray[np.uint8], reference: NDArray[np.uint8], crop_border: int) -> dict[str, float]:
    """Return PSNR (dB) and SSIM of uint8 RGB faces (H, W, 3), on luma and on RGB."""
    pair = face[..., ::-1], reference[..., ::-1]  # BasicSR's luma takes BGR
    values = {}
    for label, luma in (("Y", True), ("RGB", False)):
        options = {"crop_border": crop_border, "test_y_channel": luma}
        values[f"PSNR {label}"] = float(calculate_psnr(*pair, **options))
        values[f"SSIM {label}"] = float(calculate_ssim(*pair, **options))
    return values


def _picture(
    key: str,
    faces: dict[str, NDArray[np.uint8]],
    points: dict[str, NDArray[np.float32]],
    true: NDArray[np.float32],
    scores: FaceScores,
) -> NDArray[np.uint8]:
    columns = {}
    for name, face in faces.items():
        error = scores.of(name, key)[f"NRMSE {REPORTED}"]
        enlarged = draw_points(face, true, _TRUE, _ENLARGE)
        columns[f"{name} {error:.3f}"] = draw_points(enlarged, (points[name] + 0.5) * _ENLARGE - 0.5, _FOUND)
    return side_by_side(columns)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="PSNR, SSIM and landmark NRMSE of restored faces in one table.")
    add_custom_import(parser)
    parser.add_argument("--clean", required=True, metavar="PATH", help="clear faces: a folder or an LMDB")
    parser.add_argument("--landmarks", required=True, metavar="CSV", help="true landmarks, image,x0,y0,x1,y1,...")
    parser.add_argument("--points", required=True, choices=sorted(POINT_SETS), help="set of landmarks")
    parser.add_argument("--alignment", required=True, metavar="FILE", help="weights of a StackedHourglass")
    parser.add_argument("--lq", metavar="PATH", help="small faces, for the row of bicubic enlargement")
    parser.add_argument(
        "--restored", action="append", default=[], metavar="NAME=PATH", help="restored faces; repeat to compare"
    )
    parser.add_argument(
        "--crop-border",
        type=whole(),
        default=8,
        metavar="N",
        help="pixels left out on each side (default: 8, as DICNet)",
    )
    parser.add_argument("--pictures", type=whole(), default=8, metavar="N", help="faces shown side by side (0: none)")
    parser.add_argument("--out", required=True, type=out_folder, metavar="DIR", help="folder for tables and pictures")
    return parser
