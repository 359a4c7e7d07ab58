"""Small pictures, label maps and LMDBs for the tests of the data package."""

from __future__ import annotations

from pathlib import Path

import cv2
import lmdb
import numpy as np

from d2sm_plugin.data.decoding import encode_png
from d2sm_plugin.data.lmdb_progress import Record, origin_digest
from d2sm_plugin.data.lmdb_store import LmdbReader
from d2sm_plugin.data.lmdb_writer import LmdbWriter


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """RGB picture with gradients and shapes, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def label_of(image: np.ndarray, classes: int = 4) -> np.ndarray:
    """Label map that is a function of the pixel's colour, so that it shows whether both were cut alike."""
    return (image.astype(int).sum(axis=2) % classes).astype(np.uint8)


def write_png(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(pixels, 1))
    return path


def image_folder(root: Path, count: int = 5, size: tuple[int, int] = (40, 56)) -> Path:
    for number in range(count):
        write_png(root / f"img_{number}.png", picture(number, size))
    return root


def label_folder(root: Path, count: int = 5, size: tuple[int, int] = (40, 56), classes: int = 4) -> Path:
    for number in range(count):
        write_png(root / f"img_{number}.png", label_of(picture(number, size), classes))
    return root


def write_store(path: Path, pixels: dict[str, np.ndarray]) -> Path:
    """Write an LMDB the package's way."""
    with LmdbWriter(path) as writer:
        writer.reuse([])
        for key, array in pixels.items():
            channels = 1 if array.ndim == 2 else 3
            writer.put(key, [Record(key, encode_png(array, 1), (*array.shape[:2], channels), ".png", 1)])
        writer.finish(origin_digest(pixels))
    return path


def image_store(path: Path, count: int = 5, size: tuple[int, int] = (40, 56)) -> Path:
    return write_store(path, {f"img_{number}": picture(number, size) for number in range(count)})


def raw_store(path: Path, records: dict[str, bytes], meta: str | None) -> Path:
    """Write an LMDB with lmdb alone, to have faulty ones."""
    environment = lmdb.open(str(path), map_size=1 << 24)
    with environment.begin(write=True) as transaction:
        for key, data in records.items():
            transaction.put(key.encode(), data)
    environment.close()
    if meta is not None:
        (path / "meta_info.txt").write_text(meta, encoding="utf-8")
    return path


def contents(path: Path) -> dict[str, bytes]:
    """All records of an LMDB, read with lmdb alone."""
    environment = lmdb.open(str(path), readonly=True, lock=False)
    with environment.begin() as transaction:
        actual = {key.decode(): bytes(value) for key, value in transaction.cursor()}
    environment.close()
    return actual


def read_in_child(reader: LmdbReader, queue) -> None:
    """Here, because a spawned process imports the module of its function, and a test's would import basicsr first."""
    queue.put((reader.get("img_3"), LmdbReader(reader.path).get("img_3")))
