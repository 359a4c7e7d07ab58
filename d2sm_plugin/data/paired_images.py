"""BasicSR's ``PairedImageDataset``, checked before it is built: pairs, sizes and files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2sm_plugin.data.image_store import ImageStore, LmdbStore, check_same_keys, is_lmdb, looked_at
from d2sm_plugin.data.picture_head import TYPES, picture_size
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.files import regular

_ROOTS = ("dataroot_lq", "dataroot_gt")


def check_paired_images(block: Mapping[str, Any], where: str) -> None:
    """Check what a block of options for ``PairedImageDataset`` names.

    Args:
        block: the options, plus ``phase``.
        where: path of the block, for messages.

    Raises:
        OptionError: for options that are missing or do not go together.
        DataError: for folders or LMDBs that cannot be used, images without a counterpart, sizes that do not fit each
            other or the crop, and heads of files that are damaged; the message names the file or key.
    """
    for key in (*_ROOTS, "io_backend"):
        if not block.get(key):
            raise OptionError(f"{where}.{key}: this key is missing; PairedImageDataset needs it")
    backend = block["io_backend"]
    if not isinstance(backend, Mapping) or backend.get("type") not in ("lmdb", "disk"):
        raise OptionError(f"{where}.io_backend: expected {{type: disk}} or {{type: lmdb}}, got {backend!r}")
    if block.get("phase") == "train" and not block.get("gt_size"):
        raise OptionError(f"{where}.gt_size: this key is missing; in training, crops of that size are cut")
    for key in _ROOTS:
        if is_lmdb(block[key]) != (backend["type"] == "lmdb"):
            kind = "an LMDB" if is_lmdb(block[key]) else "no LMDB (whose name ends with .lmdb)"
            raise OptionError(f"{where}.io_backend: type '{backend['type']}', but {key} is {kind}: {block[key]}")
    if backend["type"] == "lmdb":
        _check_lmdbs(block, where)
    else:
        _check_files(block, where)


def _check_lmdbs(block: Mapping[str, Any], where: str) -> None:
    lq, gt = (LmdbStore(block[key]) for key in _ROOTS)
    check_same_keys(lq, gt, "gt image")
    for key in gt.keys:
        if "." in key:
            raise DataError(
                f"{gt.root}: BasicSR cuts the key '{key}' off at its full stop; prepare the images under other names"
            )
        _check_sizes(block, where, _described(lq, key), _described(gt, key))


def _described(store: ImageStore, key: str) -> tuple[str, tuple[int, int]]:
    return store.describe(key), store.size(key)


def _check_files(block: Mapping[str, Any], where: str) -> None:
    pairs = _listed_pairs(block, where) if block.get("meta_info_file") else _paired_files(block)
    for lq, gt in looked_at(pairs):
        _check_sizes(block, where, (lq, picture_size(lq)), (gt, picture_size(gt)))


def _paired_files(block: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of the files in two folders, as BasicSR makes them: by name, subfolders left alone."""
    lq_root, gt_root = (block[key] for key in _ROOTS)
    lq_names, gt_names = _names(lq_root), _names(gt_root)
    expected = {_lq_name(name, block): name for name in gt_names}
    problems = []
    for have, lack, root in ((expected, lq_names, lq_root), (lq_names, expected, gt_root)):
        only = [name for name in have if name not in lack]
        if only:
            problems.append(f"{root} lacks the counterpart of {len(only)} (first: '{only[0]}')")
    if problems:
        raise DataError(f"{lq_root} and {gt_root}: images of a pair must have one name; {'; '.join(problems)}")
    return [(os.path.join(lq_root, lq), os.path.join(gt_root, gt)) for lq, gt in expected.items()]


def _names(root: str) -> list[str]:
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder; give a folder of images or an LMDB (NAME.lmdb)")
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{root}: it holds no image; subfolders are not searched")
    for name in names:
        if os.path.splitext(name)[1].lower() not in TYPES:
            raise DataError(f"{os.path.join(root, name)}: PairedImageDataset takes every file for an image; remove it")
    return names


def _listed_pairs(block: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    lq_root, gt_root = (block[key] for key in _ROOTS)
    path = Path(block["meta_info_file"])
    try:
        lines = regular(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}.meta_info_file: {path}: cannot be read ({error})") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        name = line.strip().split(" ")[0]
        if not name:
            raise DataError(f"{path}: line {number} is empty, which BasicSR takes for an image; remove it")
        pair = (os.path.join(lq_root, _lq_name(os.path.basename(name), block)), os.path.join(gt_root, name))
        for file in pair:
            if not os.path.isfile(file):
                raise DataError(f"{path}: line {number}: {file} is missing")
        pairs.append(pair)
    if not pairs:
        raise DataError(f"{path}: it names no images")
    return pairs


def _lq_name(gt_name: str, block: Mapping[str, Any]) -> str:
    """Name of the input that belongs to a clean image, by the option ``filename_tmpl``."""
    stem, ending = os.path.splitext(gt_name)
    template = block.get("filename_tmpl") or "{}"
    try:
        return f"{template.format(stem)}{ending}"
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise OptionError(f"filename_tmpl: '{template}': expected {{}} in place of the clean image's name") from error


def _check_sizes(
    block: Mapping[str, Any], where: str, lq: tuple[str, Sequence[int]], gt: tuple[str, Sequence[int]]
) -> None:
    scale = block.get("scale", 1)
    (lq_file, lq_size), (gt_file, gt_size) = lq, gt
    rest = [large - scale * small for small, large in zip(lq_size, gt_size, strict=True)]
    # Validation cuts off what does not go into the scale; more than that would be another picture.
    if any(rest) if block.get("phase") == "train" else not all(0 <= value < max(scale, 1) for value in rest):
        raise DataError(
            f"{lq_file}: the image is {lq_size[1]}x{lq_size[0]} (width x height), its clean one {gt_file} "
            f"{gt_size[1]}x{gt_size[0]}; with scale {scale} ({where}) they do not fit"
        )
    crop = block.get("gt_size") if block.get("phase") == "train" else None
    if crop is not None and min(gt_size) < crop:
        raise DataError(
            f"{gt_file}: the image is {gt_size[1]}x{gt_size[0]} (width x height), smaller than the crop "
            f"{where}.gt_size {crop}; lower it or remove the image"
        )
