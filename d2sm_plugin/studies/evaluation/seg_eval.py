"""Semantic accuracy of several sets of restored images, in one table."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from d2sm_plugin.arguments import Parser, device, number, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.data.image_store import ImageStore, open_images
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.pipeline.pictures import side_by_side, write_png
from d2sm_plugin.seg.classes import ClassSet
from d2sm_plugin.seg.label_values import describe
from d2sm_plugin.seg.overlay import overlay
from d2sm_plugin.seg.segmentor import Segmentor, build_segmentor, choose_classes
from d2sm_plugin.studies.evaluation.methods import Image, Method, spread, stored_method
from d2sm_plugin.studies.evaluation.seg_methods import CLEAN, noisy_and_restored
from d2sm_plugin.studies.evaluation.seg_report import tables, write_report
from d2sm_plugin.studies.evaluation.seg_scoring import MethodScores, score_method


def main(argv: Sequence[str] | None = None) -> int:
    """Score restored image sets as the command line says; see ``--help``."""
    arguments = _parser().parse_args(argv)
    _check(arguments)
    segmentor = build_segmentor(
        arguments.config,
        arguments.checkpoint,
        arguments.device,
        amp=arguments.amp,
        test_resize=arguments.test_resize,
    )
    classes = choose_classes(arguments.classes, segmentor, arguments.checkpoint)
    labels = open_images(arguments.labels)
    clean, methods = gather_methods(arguments, labels)
    names = [method.name for method in methods]
    if arguments.reference is not None and arguments.reference not in names:
        raise OptionError(
            f"--reference {arguments.reference}: no row has this name{suggest(arguments.reference, names)}"
        )
    if (renumbered := describe(segmentor.label_values)) is not None:
        tqdm.write(f"{arguments.config}: {renumbered}")
    out = Path(arguments.out) if arguments.out else None
    shown = spread(labels.keys, arguments.overlays) if out is not None else set()
    results = [
        _score(method, labels, classes, segmentor, clean, arguments.batch_size, out, shown) for method in methods
    ]
    print(tables(results, arguments.reference, arguments.block))  # noqa: T201  # the table is what the tool is for
    if out is not None:
        write_report(results, out, arguments.reference, arguments.block, shown)
        _write_comparisons(results, shown, out)
        print(f"\nwritten to {out}")  # noqa: T201
    return 0


def gather_methods(arguments: argparse.Namespace, labels: ImageStore) -> tuple[Method | None, list[Method]]:
    """Return the clean images, if given, and the rows of the table in order.

    With an option file the rows are: clean, and for every noise level the noisy and the restored images; then come the
    sets that ``--restored`` names.

    Raises:
        OptionError: for a malformed or repeated name, or nothing to score.
        DataError: when a set has other images than the labels.
    """
    clean = None
    if arguments.clean:
        clean = stored_method(CLEAN, open_images(arguments.clean), labels.keys, labels.root)
    methods: list[Method] = []
    if arguments.opt:
        assert clean is not None  # checked with the arguments
        methods += noisy_and_restored(
            clean, arguments.opt, arguments.restoration_checkpoint, arguments.sigma, arguments.device
        )
    for entry in arguments.restored:
        name, separator, path = entry.partition("=")
        if not (name and separator and path):
            raise OptionError(f"--restored {entry}: expected NAME=PATH, for example FFDNet=results/ffdnet")
        methods.append(stored_method(name, open_images(path), labels.keys, labels.root))
    names = [method.name for method in methods]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(f"--restored: the name '{repeated[0]}' is taken twice; give every row a name of its own")
    return clean, methods


def _score(
    method: Method,
    labels: ImageStore,
    classes: ClassSet,
    segmentor: Segmentor,
    clean: Method | None,
    batch_size: int,
    out: Path | None,
    shown: Collection[str],
) -> MethodScores:
    with tqdm(total=len(labels), desc=method.name, unit="image", dynamic_ncols=True) as bar:

        def on_image(key: str, image: Image, prediction: NDArray[np.int64]) -> None:
            if out is not None and key in shown:
                write_png(_overlays(out, method.name) / f"{key}.png", overlay(image, prediction, classes.palette))
            bar.update()

        return score_method(method, labels, classes, segmentor, clean, batch_size, on_image)


def _write_comparisons(results: Sequence[MethodScores], shown: Collection[str], out: Path) -> None:
    """Write the overlays of all methods side by side, with their aAcc in the image (the paper's Figure 6)."""
    stores = [open_images(str(_overlays(out, result.name))) for result in results] if shown else []
    for key in sorted(shown):
        pictures = {}
        for result, store in zip(results, stores, strict=True):
            (accuracy,) = (row.values.get("aAcc") for row in result.images if row.key == key)
            caption = result.name if accuracy is None else f"{result.name}  aAcc {accuracy:.2f} %"
            pictures[caption] = store.read_rgb(key)
        write_png(out / "comparison" / f"{key}.png", side_by_side(pictures))


def _overlays(out: Path, method: str) -> Path:
    return out / "overlays" / method.replace("/", "_").replace("\\", "_").replace("..", "_")


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.restored and not arguments.opt:
        raise OptionError("there is nothing to score; give --restored NAME=PATH, or an option file with --opt")
    together = ("clean", "restoration_checkpoint", "sigma")
    if arguments.opt:
        missing = [f"--{name.replace('_', '-')}" for name in together if not getattr(arguments, name)]
        if missing:
            raise OptionError(f"--opt restores noisy images itself and needs {', '.join(missing)} as well")
    elif arguments.restoration_checkpoint or arguments.sigma:
        raise OptionError(
            "--restoration-checkpoint and --sigma belong to --opt, the option file of the network; add it"
        )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="How well a segmentation network reads restored images: mIoU, aAcc, mAcc, PSNR and IoU by class."
    )
    add_custom_import(parser)
    add = parser.add_argument
    add("--restored", action="append", default=[], metavar="NAME=PATH", help="restored images; repeat to compare")
    add("--labels", required=True, metavar="PATH", help="label maps with the same names: a folder or an LMDB")
    add("--config", required=True, help="mmseg config: a path, or the name of one that mmseg or this package ships")
    add("--checkpoint", required=True, help="path or URL of the segmentation network's checkpoint")
    add("--clean", metavar="PATH", help="clean images, for PSNR and for --opt: a folder or an LMDB")
    add("--classes", metavar="SET", help="cityscapes, camvid or a file (default: those of the checkpoint)")
    add("--reference", metavar="NAME", help="compare the mIoU of all rows with that of this one, with 95 %% intervals")
    add("--block", type=whole(1), default=10, metavar="N", help="neighbours that count as one scene (default: 10)")
    add("--out", type=out_folder, metavar="DIR", help="folder for metrics.json, metrics.csv, overlays and the plot")
    add("--overlays", type=whole(), default=8, metavar="N", help="overlays a method (default: %(default)s)")
    add("--batch-size", type=whole(1), default=4, metavar="N", help="images at once on a GPU (default: %(default)s)")
    add("--device", type=device, default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    add("--amp", action="store_true", help="run the segmentation network in bfloat16")
    add("--test-resize", action="store_true", help="resize as the config's test pipeline says, as mmseg itself does")
    restoring = parser.add_argument_group("restoring here: adds noise to the clean images, restores and scores them")
    restoring.add_argument("--opt", metavar="YML", help="option file of the restoration network")
    restoring.add_argument("--restoration-checkpoint", metavar="PATH", help="its weights")
    restoring.add_argument(
        "--sigma", type=number(0, 255, above=True), nargs="+", metavar="S", help="noise levels on the 0-255 scale"
    )
    return parser
