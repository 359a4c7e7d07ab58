"""The command line of ``tools/inference.py``: restore a folder of pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from d2sm_plugin.arguments import Parser, device, out_folder, whole
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.data.image_store import picture_files
from d2sm_plugin.data.picture_head import MAX_PIXELS, TYPES
from d2sm_plugin.errors import D2SMError, DataError, OptionError
from d2sm_plugin.inference.network_arguments import add_network_arguments, network_of
from d2sm_plugin.inference.noise_level import ESTIMATE, parse_noise_level
from d2sm_plugin.inference.picture_files import read_picture, write_picture
from d2sm_plugin.inference.picture_restorer import PictureRestorer


def main(argv: Sequence[str] | None = None) -> int:
    """Restore pictures as the command line says; see ``--help``.

    Returns:
        0 when every picture was restored, 1 when some were left out.

    Raises:
        D2SMError: before anything is written, for arguments, a checkpoint or folders that cannot be used; with
            ``--stop``, also at the first picture that cannot be restored.
    """
    arguments = _parser().parse_args(argv)
    if (arguments.pictures is None) == (arguments.input is None):
        raise OptionError("give the pictures once: as the first argument, or with --input")
    source = Path(arguments.pictures or arguments.input).expanduser()
    out = Path(arguments.output).expanduser()
    targets = plan_targets(source, out, arguments.format, arguments.existing)
    if not targets:
        tqdm.write(f"{out}: every picture is there already")
        return 0
    restorer = PictureRestorer(
        network_of(arguments)[0].to(arguments.device),
        None if arguments.sigma is None else parse_noise_level(arguments.sigma),
        arguments.tile,
        arguments.tile_overlap,
        arguments.amp,
    )
    failures = restore_all(restorer, targets, arguments.stop, arguments.max_megapixels * 10**6)
    tqdm.write(f"{len(targets) - len(failures)} of {len(targets)} pictures restored into {out}")
    for failure in failures:
        tqdm.write(f"left out: {failure}", file=sys.stderr)
    return 1 if failures else 0


def plan_targets(source: Path, out: Path, ending: str = "same", existing: str = "error") -> dict[Path, Path]:
    """Return which file is to be written for which picture.

    Args:
        source: a picture, or a folder that is searched with its subfolders; hidden files are passed over.
        out: folder for the results, which keep the names and the relative folders.
        ending: ``"same"`` as the picture's, or ``"png"``.
        existing: what to do about results that are there: ``"error"``, ``"skip"`` or ``"overwrite"``.

    Returns:
        Picture -> result, sorted; without those to be skipped.

    Raises:
        DataError: when there is no picture, a result would overwrite or join the pictures, two pictures would get one
            name, or results exist and ``existing`` is ``"error"``.
    """
    pictures = _find_pictures(source)
    root = source if source.is_dir() else source.parent
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: it is a file; give a folder for the restored pictures")
    if _real(out) == _real(root) or (source.is_dir() and _real(source) in _real(out).parents):
        raise DataError(f"{out}: the restored pictures would join the given ones in {root}; give another folder")
    targets: dict[Path, Path] = {}
    sources: dict[Path, Path] = {}
    for picture in pictures:
        target = out / picture.relative_to(root)
        target = target if ending == "same" else target.with_suffix(f".{ending}")
        if target in sources:
            raise DataError(
                f"{target}: both {sources[target]} and {picture} would be written there; rename one of them"
            )
        sources[target], targets[picture] = picture, target
    _check_no_picture_is_overwritten(targets)
    return _without_existing(targets, existing)


def restore_all(
    restorer: PictureRestorer, targets: dict[Path, Path], stop: bool = False, max_pixels: int = MAX_PIXELS
) -> list[str]:
    """Restore pictures one after the other, with a progress bar.

    A picture that cannot be read, restored or written, whatever the reason, does not keep the others from being
    restored. Estimated noise levels are printed.

    Args:
        restorer: does the work.
        targets: picture -> result.
        stop: raise at the first picture that fails instead.
        max_pixels: the largest picture that is read.

    Returns:
        One message for each picture that failed; each names the file.

    Raises:
        D2SMError: for a picture that fails, if ``stop``.
    """
    failures: list[str] = []
    with tqdm(targets.items(), unit="picture", disable=None) as bar:
        for source, target in bar:
            bar.set_postfix_str(source.name)
            try:
                picture = read_picture(source, max_pixels, "cut it, or raise --max-megapixels if you trust it")
                level = restorer.noise_level(picture)
                write_picture(target, restorer.restore(picture, level))
            except Exception as error:  # a network may raise anything
                message = _failure(source, target, error)
                if stop:
                    raise DataError(message) from error
                failures.append(message)
                continue
            if restorer.sigma == ESTIMATE:
                tqdm.write(f"{source}: noise level {level:.1f}")
    return failures


def _failure(source: Path, target: Path, error: Exception) -> str:
    """One line that names the picture, and for what is none of our errors its class."""
    text = str(error) if isinstance(error, D2SMError) else f"{type(error).__name__}: {error}"
    return text if str(source) in text or str(target) in text else f"{source}: {' '.join(text.split())}"


def _find_pictures(source: Path) -> list[Path]:
    if source.is_file():
        if source.suffix.lower() not in TYPES:
            raise DataError(f"{source}: not among the file types that are read: {', '.join(TYPES)}")
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    pictures = [source / name for name in picture_files(source, files_only=False)]
    if not pictures:
        raise DataError(f"{source}: no pictures in it ({', '.join(TYPES)})")
    return pictures


def _real(path: Path) -> Path:
    """Return a path without links; ``Path.resolve`` raises for a link to itself, before Python 3.13."""
    return Path(os.path.realpath(path))


def _check_no_picture_is_overwritten(targets: dict[Path, Path]) -> None:
    inputs = {_real(picture) for picture in targets}
    for picture, target in targets.items():
        if _real(target) in inputs:
            raise DataError(f"{target}: the result of {picture} would overwrite a given picture; give another folder")


def _without_existing(targets: dict[Path, Path], existing: str) -> dict[Path, Path]:
    present = [picture for picture, target in targets.items() if target.exists()]
    if present and existing == "error":
        raise DataError(
            f"{targets[present[0]]}: exists already, as do {len(present) - 1} other results; give another folder, or "
            f"--existing skip or --existing overwrite"
        )
    return {p: t for p, t in targets.items() if existing != "skip" or not t.exists()}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        description="Restore pictures with a trained network.",
        epilog="A picture that cannot be read or restored is named at the end and left out; the exit status is then 1.",
    )
    add_custom_import(parser)
    parser.add_argument(
        "pictures", nargs="?", metavar="PICTURES", help="a picture, or a folder of pictures with its subfolders"
    )
    parser.add_argument("-i", "--input", help="the same, by name")
    parser.add_argument(
        "-o",
        "--output",
        default="restored",
        type=out_folder,
        help="folder for the results; names and subfolders are kept (default: %(default)s)",
    )
    add_network_arguments(parser)
    parser.add_argument("-s", "--sigma", help="noise level, 0 to 255, or 'estimate'; for networks that are told it")
    parser.add_argument("--tile", type=whole(1), help="restore by tiles of so many pixels a side, for large pictures")
    parser.add_argument(
        "--tile-overlap",
        type=whole(),
        help="context around tiles in pixels; as far as the network sees if not given",
    )
    parser.add_argument("--amp", choices=("bf16", "fp16"), help="compute in half precision where that is safe")
    parser.add_argument(
        "--device", type=device, default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one"
    )
    parser.add_argument("--format", choices=("same", "png"), default="same", help="file type of the results")
    parser.add_argument(
        "--existing", choices=("error", "skip", "overwrite"), default="error", help="what to do about existing results"
    )
    parser.add_argument(
        "--max-megapixels",
        type=whole(1),
        default=MAX_PIXELS // 10**6,
        metavar="N",
        help="leave out larger pictures, as files made to fill the memory have (default: %(default)s)",
    )
    parser.add_argument("--stop", action="store_true", help="stop at the first picture that fails")
    return parser
