"""Finding hazy images and their clear counterparts in the folder layouts of the public dehazing sets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from d2sm_plugin.data.image_store import FolderStore
from d2sm_plugin.data.picture_head import picture_size
from d2sm_plugin.errors import DataError, OptionError

#: I-HAZE and O-HAZE: NUMBER_indoor_hazy.jpg beside NUMBER_indoor_GT.jpg, in folders of any name.
_NUMBERED = re.compile(r"(?P<number>\d+)_(?P<scene>indoor|outdoor)_(?P<kind>hazy|gt)", re.IGNORECASE)
_ARCHIVES = {"indoor": "I-HAZE", "outdoor": "O-HAZE"}
#: Images for training and testing in the paper's experiments (supplement, "Natural Image Restoration").
PAPER_SPLIT = {"indoor": (30, 5), "outdoor": (40, 5)}
#: RESIDE: the folder of hazy images, and the names that its clear counterpart goes by.
_HAZY_FOLDER = "hazy"
_CLEAR_FOLDERS = ("gt", "GT", "clear")
_TRANSMISSION_FOLDER = "trans"
_SPLITS = ("train", "val", "test")
#: SOTS' indoor clear images are 640x480, their hazy ones 620x460: a frame of this width was cut off.
_SOTS_FRAME = 10


@dataclass(frozen=True)
class HazePair:
    """One record of a paired set.

    Attributes:
        key: of the record; without full stops, at which BasicSR would cut it off.
        hazy: file of the hazy image.
        clear: file of the clear image; several hazy ones may share it.
        frame: pixels to cut off each side of the clear image so that it fits the hazy one.
    """

    key: str
    hazy: Path
    clear: Path
    frame: int = 0


def find_splits(source: Path, train_count: int | None, whole: str) -> dict[str, list[HazePair]]:
    """Return the pairs of every split, in the order of their keys.

    Args:
        source: folder of an unpacked archive: I-HAZE, O-HAZE, or RESIDE (its parts, such as SOTS, alike).
        train_count: I-HAZE and O-HAZE: the first so many images are the split train, the others test; None takes the
            paper's 30 and 40 of the 35 and 45.
        whole: RESIDE: name of the split where ``source`` holds hazy and clear folders itself.

    Raises:
        DataError: for an unknown layout, an image without a counterpart, or a pair of different sizes; the message
            names the file.
        OptionError: when ``train_count`` leaves no image for one of the splits, or the layout has its splits already.
    """
    numbered = [(path, match) for path in _images(source) if (match := _NUMBERED.fullmatch(path.stem))]
    if numbered:
        splits = _split_numbered(source, _pair_numbered(source, numbered), train_count)
    else:
        if train_count is not None:
            raise OptionError("--train-count: only I-HAZE and O-HAZE are split by it; remove it")
        splits = _find_reside(source, whole)
    return {split: [_fit(pair) for pair in tqdm(pairs, desc=f"{split}: sizes")] for split, pairs in splits.items()}


def _images(source: Path) -> list[Path]:
    store = FolderStore(source)
    return [Path(store.path(key)) for key in store.keys]


def _pair_numbered(source: Path, numbered: list[tuple[Path, re.Match[str]]]) -> list[HazePair]:
    files: dict[str, dict[int, Path]] = {"hazy": {}, "gt": {}}
    scenes = {match["scene"].lower() for _, match in numbered}
    if len(scenes) > 1:
        raise DataError(f"{source}: it holds I-HAZE and O-HAZE both; give the folder of one of them")
    for path, match in numbered:
        known = files[match["kind"].lower()]
        number = int(match["number"])
        if number in known:
            raise DataError(f"{path}: image {number} is there twice, also as {known[number]}; remove one of them")
        known[number] = path
    for kind, other, word in (("hazy", "gt", "GT"), ("gt", "hazy", "hazy")):
        for number, path in files[kind].items():
            if number not in files[other]:
                raise DataError(f"{path}: its counterpart (same number, ..._{word}) is missing below {source}")
    scene = scenes.pop()
    return [
        HazePair(f"{number:02d}_{scene}", files["hazy"][number], files["gt"][number]) for number in sorted(files["gt"])
    ]


def _split_numbered(source: Path, pairs: list[HazePair], train_count: int | None) -> dict[str, list[HazePair]]:
    scene = pairs[0].key.split("_")[1]
    if train_count is None:
        train_count, test_count = PAPER_SPLIT[scene]
        if len(pairs) != train_count + test_count:
            raise DataError(
                f"{source}: {_ARCHIVES[scene]} has {train_count + test_count} pairs, {len(pairs)} are here; complete "
                f"it, or say with --train-count how to split these"
            )
    if not 0 < train_count < len(pairs):
        raise OptionError(f"--train-count {train_count}: {len(pairs)} pairs are here; give 1 to {len(pairs) - 1}")
    return {"train": pairs[:train_count], "test": pairs[train_count:]}


def _find_reside(source: Path, whole: str) -> dict[str, list[HazePair]]:
    if (source / _HAZY_FOLDER).is_dir():
        return {whole: _pair_reside(source)}
    splits = {split: source / split for split in _SPLITS if (source / split / _HAZY_FOLDER).is_dir()}
    if not splits:
        raise DataError(
            f"{source}: no known layout; expected NUMBER_indoor_hazy with NUMBER_indoor_GT images (I-HAZE; outdoor for "
            f"O-HAZE), or folders hazy and gt (or clear) as in RESIDE, directly or in train, val and test"
        )
    return {split: _pair_reside(folder) for split, folder in splits.items()}


def _pair_reside(folder: Path) -> list[HazePair]:
    clear_folder = next((folder / name for name in _CLEAR_FOLDERS if (folder / name).is_dir()), None)
    if clear_folder is None:
        raise DataError(
            f"{folder}: there is a folder hazy, but none with the clear images ({', '.join(_CLEAR_FOLDERS)})"
        )
    clear = {path.stem: path for path in _images(clear_folder)}
    pairs: dict[str, HazePair] = {}
    used = set()
    for hazy in _images(folder / _HAZY_FOLDER):
        name = hazy.stem.split("_")[0]
        if name not in clear:
            raise DataError(f"{hazy}: its clear image {clear_folder / name}.* is missing")
        key = hazy.stem.replace(".", "-")
        if key in pairs:
            raise DataError(f"{hazy}: {pairs[key].hazy} would have the same key '{key}'; rename one of them")
        pairs[key] = HazePair(key, hazy, clear[name])
        used.add(name)
    for name, path in clear.items():
        if name not in used:
            raise DataError(f"{path}: no hazy image {folder / _HAZY_FOLDER / name}_*.* belongs to it; remove it")
    return [pairs[key] for key in sorted(pairs)]


def transmission_of(pair: HazePair) -> Path:
    """Return the file of a pair's transmission map, ``trans/1_2.png`` for ``hazy/1_2_0.8.png`` as in RESIDE's ITS.

    Raises:
        DataError: when it is missing or of another size than the hazy image.
    """
    name = "_".join(pair.hazy.stem.split("_")[:2])
    file = pair.hazy.parent.parent / _TRANSMISSION_FOLDER / f"{name}{pair.hazy.suffix}"
    if not file.is_file():
        raise DataError(
            f"{pair.hazy}: its transmission map {file} is missing; complete the set or leave out --transmission"
        )
    if picture_size(file) != picture_size(pair.hazy):
        raise DataError(f"{file}: its size differs from that of {pair.hazy}; they must be equal")
    return file


def _fit(pair: HazePair) -> HazePair:
    """Check the sizes of a pair, and note the frame to cut off where it is SOTS'."""
    hazy, clear = picture_size(pair.hazy)[::-1], picture_size(pair.clear)[::-1]
    if hazy == clear:
        return pair
    if (clear[0] - hazy[0], clear[1] - hazy[1]) == (2 * _SOTS_FRAME, 2 * _SOTS_FRAME):
        return HazePair(pair.key, pair.hazy, pair.clear, _SOTS_FRAME)
    raise DataError(
        f"{pair.hazy}: the image is {hazy[0]}x{hazy[1]} (width x height), its clear one {pair.clear} "
        f"{clear[0]}x{clear[1]}; they must be equal"
    )
