"""Several methods in one table: PSNR and SSIM of restored image sets, and pictures side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from basicsr.metrics import calculate_psnr, calculate_ssim
from tqdm import tqdm

from d2sm_plugin.archs.dark_channel_prior_arch import dark_channel_prior
from d2sm_plugin.arguments import Parser, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.data.image_store import ImageStore, open_images
from d2sm_plugin.errors import OptionError
from d2sm_plugin.pipeline.pictures import side_by_side, write_png
from d2sm_plugin.studies.evaluation.comparison_pictures import stack, thumbnail
from d2sm_plugin.studies.evaluation.comparison_report import Scores, write_report
from d2sm_plugin.studies.evaluation.methods import Image, Method, read_like, spread, stored_method

#: Names of the row and the column that the tool adds to those the user names.
DCP, CLEAN = "DCP", "clean"
#: Widest column of the side-by-side pictures, in pixels.
_COLUMN_WIDTH = 640


def main(argv: Sequence[str] | None = None) -> int:
    """Compare restored image sets as the command line says; see ``--help``."""
    arguments = _parser().parse_args(argv)
    out = Path(arguments.out)
    clean = open_images(arguments.clean)
    degraded = (arguments.lq_name, arguments.lq) if arguments.lq is not None else None
    methods = gather_methods(clean, arguments.restored, degraded, out / "dcp" if arguments.dcp else None)
    scores = evaluate(clean, methods, arguments.crop_border, out / "pictures", arguments.pictures)
    print(write_report(scores, out))  # noqa: T201  # the table is what the tool is for
    return 0


def gather_methods(
    clean: ImageStore, restored: Sequence[str], lq: tuple[str, str] | None, dcp: Path | None
) -> list[Method]:
    """Return the rows of the table in order: the degraded input, DCP, then what the user names.

    Args:
        clean: the reference images; its keys are the ones that count.
        restored: ``NAME=PATH`` of every restored set.
        lq: name and path of the degraded images, which get a row as well; None for no such row.
        dcp: folder for the images that the dark channel prior restores from ``lq``; None for no such row.

    Raises:
        OptionError: for a malformed or repeated name, nothing to compare, or DCP without ``lq``.
        DataError: when a set lacks an image.
    """
    if dcp is not None and lq is None:
        raise OptionError("--dcp restores the degraded images; say where they are with --lq")
    methods = []
    if lq is not None:
        degraded = stored_method(lq[0], open_images(lq[1]), clean.keys, str(clean.root))
        methods.append(degraded)
        if dcp is not None:
            methods.append(_dark_channel_method(degraded, dcp))
    for entry in restored:
        name, separator, path = entry.partition("=")
        if not (name and separator and path):
            raise OptionError(f"--restored {entry}: expected NAME=PATH, for example MSBDN=results/msbdn")
        methods.append(stored_method(name, open_images(path), clean.keys, str(clean.root)))
    names = [method.name for method in methods] + [CLEAN]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(f"--restored: the name '{repeated[0]}' is taken twice; give every row a name of its own")
    if not methods:
        raise OptionError("there is nothing to compare; give --restored NAME=PATH, or --lq PATH")
    return methods


def evaluate(
    clean: ImageStore, methods: Sequence[Method], crop_border: int, pictures: Path | None, max_pictures: int
) -> Scores:
    """Measure every image of every method with BasicSR's PSNR and SSIM, on 8-bit RGB.

    Args:
        clean: the reference images.
        methods: what is compared.
        crop_border: pixels left out on each side.
        pictures: folder for side-by-side pictures, one an image, and ``comparison.png`` with all of them.
        max_pictures: number of images to show, spread evenly over the set; 0 writes none.

    Raises:
        DataError: when an image does not decode, or its size differs from the clean one's; the message names it.
        OptionError: when the border leaves nothing of an image.
    """
    shown = spread(clean.keys, max_pictures)
    scores = Scores([method.name for method in methods], crop_border)
    rows = []
    for key in tqdm(clean.keys, desc="comparing", unit="image", dynamic_ncols=True):
        reference = clean.read_rgb(key)
        if min(reference.shape[:2]) - 2 * crop_border < 11:  # the window of SSIM
            raise OptionError(f"--crop-border {crop_border}: it leaves too little of {clean.describe(key)}; lower it")
        images = {method.name: read_like(method, key, reference) for method in methods}
        for name, image in images.items():
            psnr, ssim = measure(image, reference, crop_border)
            scores.add(name, key, psnr, ssim)
        if pictures is not None and key in shown:
            labelled = {f"{name} {scores.psnr_of(name, key):.2f} dB": image for name, image in images.items()}
            columns = {name: thumbnail(image, _COLUMN_WIDTH) for name, image in {**labelled, CLEAN: reference}.items()}
            rows.append(side_by_side(columns))
            write_png(pictures / f"{key}.png", rows[-1])
    if pictures is not None and rows:
        write_png(pictures / "comparison.png", stack(rows))
    return scores


def measure(image: Image, reference: Image, crop_border: int) -> tuple[float, float]:
    """Return PSNR in dB and SSIM of two uint8 RGB images (H, W, 3), over all three channels."""
    psnr = calculate_psnr(image, reference, crop_border=crop_border)
    ssim = calculate_ssim(image, reference, crop_border=crop_border)
    return float(psnr), float(ssim)


def _dark_channel_method(degraded: Method, folder: Path) -> Method:
    def restore(key: str) -> Image:
        image = np.round(dark_channel_prior(degraded.read(key)) * 255).astype(np.uint8)
        write_png(folder / f"{key}.png", image)
        return image

    return Method(DCP, restore, lambda key: f"{degraded.describe(key)} restored by DCP")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description="PSNR and SSIM of several restored image sets in one table.")
    add_custom_import(parser)
    parser.add_argument("--clean", required=True, metavar="PATH", help="reference images: a folder or an LMDB")
    parser.add_argument(
        "--restored", action="append", default=[], metavar="NAME=PATH", help="restored images; repeat to compare"
    )
    parser.add_argument("--lq", metavar="PATH", help="degraded images, for a row of their own and for --dcp")
    parser.add_argument("--lq-name", default="input", metavar="NAME", help="of that row (default: %(default)s)")
    parser.add_argument("--dcp", action="store_true", help="also restore --lq with the dark channel prior (dehazing)")
    parser.add_argument("--crop-border", type=whole(), default=0, metavar="N", help="pixels left out on each side")
    parser.add_argument("--pictures", type=whole(), default=8, metavar="N", help="images shown side by side (0: none)")
    parser.add_argument("--out", required=True, type=out_folder, metavar="DIR", help="folder for tables and pictures")
    return parser
