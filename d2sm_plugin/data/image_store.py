"""Images and label maps by key, from a folder or an LMDB."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.data.decoding import decode_label, decode_rgb
from d2sm_plugin.data.keys import check_key
from d2sm_plugin.data.lmdb_store import META_FILE, LmdbReader, read_meta_info
from d2sm_plugin.data.picture_head import TYPES, UNREAD_TYPES, picture_size, read_picture_bytes
from d2sm_plugin.errors import DataError, suggest

T = TypeVar("T")
_LOGGER = "basicsr"  # where a run logs, to the terminal and to its file
#: Of larger sets, the heads of so many files are looked at before anything starts, evenly spread over the set; what is
#: wrong with others is told when they are read.
MOST_LOOKED_AT = 2000
_MANY_KEYS = 200  # beyond this, looking for the nearest key in a message is not worth its length


class ImageStore(ABC):
    """A set of images or label maps, each known by its key.

    Attributes:
        root: what was opened.
        keys: relative paths without extension, ``/`` between folders, sorted.
    """

    root: str
    keys: list[str]
    _known: frozenset[str]

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._known

    @abstractmethod
    def read_bytes(self, key: str) -> bytes:
        """Return the encoded bytes of ``key``; :class:`DataError` when they cannot be had."""

    @abstractmethod
    def path(self, key: str) -> str:
        """Return the file of ``key``; for an LMDB the key itself, as BasicSR's datasets do."""

    @abstractmethod
    def describe(self, key: str) -> str:
        """Return file or record of ``key`` for messages."""

    @abstractmethod
    def size(self, key: str) -> tuple[int, int]:
        """Return (height, width) of ``key`` as it is shown, without decoding it.

        Raises:
            DataError: when there is no such key, or its head is damaged.
        """

    def read_rgb(self, key: str) -> NDArray[np.uint8]:
        """Return the image ``key``: uint8 RGB (H, W, 3), contiguous.

        Raises:
            DataError: when there is no such key or it does not decode.
        """
        return decode_rgb(self.read_bytes(key), self.describe(key))

    def read_label(self, key: str) -> NDArray[np.uint8]:
        """Return the label map ``key``: uint8 (H, W), values as stored (train ids, 255 = ignore).

        Raises:
            DataError: when there is no such key, it does not decode, or its values are no ids.
        """
        return decode_label(self.read_bytes(key), self.describe(key))

    def _set_keys(self, keys: list[str]) -> None:
        self.keys = sorted(keys)
        self._known = frozenset(self.keys)

    def _check(self, key: str) -> None:
        if key not in self._known:
            hint = suggest(key, self.keys) if len(self) <= _MANY_KEYS else ""
            raise DataError(f"{self.root}: there is no image '{key}' in it{hint}")


class FolderStore(ImageStore):
    """The images below a folder, searched recursively.

    Pictures of types that are not read are passed over, and a warning counts them.

    Raises:
        DataError: when the folder is missing, holds no image, two files differ only in their extension, or a name is
            that of a pipe, a device or a link that leads nowhere.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        if not os.path.isdir(self.root):
            raise DataError(f"{self.root}: no such folder; give a folder of images or an LMDB (NAME.lmdb)")
        self._files: dict[str, str] = {}
        for file in picture_files(self.root):
            key = _key_of(file, self.root)
            if key in self._files:
                raise DataError(
                    f"{self.root}: {self._files[key]} and {file} differ only in their extension, so both would have "
                    f"the key '{key}'; rename or remove one"
                )
            self._files[key] = file
        if not self._files:
            raise DataError(f"{self.root}: it holds no image ({', '.join(sorted(TYPES))})")
        self._set_keys(list(self._files))

    def read_bytes(self, key: str) -> bytes:
        """Return the bytes of the file."""
        return read_picture_bytes(self.path(key))

    def size(self, key: str) -> tuple[int, int]:
        """Return (height, width) as the head of the file has it."""
        return picture_size(self.path(key))

    def path(self, key: str) -> str:
        """Return the path of the file."""
        self._check(key)
        return os.path.join(self.root, self._files[key])

    def describe(self, key: str) -> str:
        """Return the path of the file."""
        return self.path(key)


class LmdbStore(ImageStore):
    """The records of an LMDB in BasicSR's format (``data.mdb`` and ``meta_info.txt``).

    Raises:
        DataError: when a part is missing, empty, truncated, or the two disagree.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._reader = LmdbReader(root)
        self._meta = read_meta_info(root)
        if len(self._meta) != len(self._reader):
            raise DataError(
                f"{self.root}: {META_FILE} names {len(self._meta)} records, data.mdb holds {len(self._reader)}; "
                f"prepare it again with d2sm prepare"
            )
        self._set_keys(list(self._meta))

    def read_bytes(self, key: str) -> bytes:
        """Return the bytes of the record."""
        self._check(key)
        return self._reader.get(key)

    def path(self, key: str) -> str:
        """Return the key."""
        self._check(key)
        return key

    def describe(self, key: str) -> str:
        """Return the LMDB and the key."""
        return f"{self.root}: record '{key}'"

    def size(self, key: str) -> tuple[int, int]:
        """Return (height, width) as ``meta_info.txt`` has it."""
        self._check(key)
        height, width = self._meta[key].shape[:2]
        return height, width


def open_images(path: str | Path) -> ImageStore:
    """Open a folder of images or an LMDB.

    Args:
        path: a folder (searched recursively for the endings in :data:`d2sm_plugin.data.picture_head.TYPES`), or an
            LMDB: a folder whose name ends with ``.lmdb`` or that holds ``data.mdb``.

    Raises:
        DataError: when it is missing, empty or damaged; the message names it.
    """
    return LmdbStore(path) if is_lmdb(path) else FolderStore(path)


def is_lmdb(path: str | Path) -> bool:
    """Return whether :func:`open_images` takes ``path`` for an LMDB."""
    return str(path).rstrip("/\\").endswith(".lmdb") or os.path.isfile(os.path.join(path, "data.mdb"))


def looked_at(items: Sequence[T]) -> Sequence[T]:
    """Return the items, such as keys or pairs of files, whose heads are looked at before anything starts."""
    return items[:: max(1, -(-len(items) // MOST_LOOKED_AT))]


def check_same_keys(images: ImageStore, partners: ImageStore, kind: str = "label") -> None:
    """Check that two stores hold the same keys.

    Raises:
        DataError: naming both stores and the first keys that only one of them has.
    """
    problems = []
    for have, lack in ((images, partners), (partners, images)):
        only = [key for key in have.keys if key not in lack]
        if only:
            shown = ", ".join(only[:3]) + (", ..." if len(only) > 3 else "")
            problems.append(f"{len(only)} only in {have.root} ({shown})")
    if problems:
        raise DataError(
            f"{images.root} and {partners.root}: images and {kind}s must have the same keys; {'; '.join(problems)}"
        )


def _key_of(file: str, root: str) -> str:
    return check_key(os.path.splitext(file)[0].replace(os.sep, "/"), root)


def picture_files(root: str | Path, files_only: bool = True) -> list[str]:
    """Return the pictures below a folder, relative to it, in an order that no file system decides.

    Hidden files and folders and LMDBs are passed over; of pictures whose type is not read, a warning gives the number.

    Args:
        root: the folder.
        files_only: raise at a name with a picture's ending that is no file; else it is listed, and reading it fails.

    Raises:
        DataError: when a folder cannot be read, or a name with a picture's ending is no file.
    """
    pictures: list[str] = []
    unread: dict[str, int] = {}
    visited: set[str] = set()
    folders = [""]
    while folders:
        folder = folders.pop()
        real = os.path.realpath(os.path.join(root, folder))
        if real in visited:  # links that lead in a circle
            continue
        visited.add(real)
        for entry in _entries(os.path.join(root, folder)):
            name = os.path.join(folder, entry.name)
            ending = os.path.splitext(entry.name)[1].lower()
            if _leads_to(entry.is_dir):
                if not entry.name.endswith(".lmdb"):
                    folders.append(name)
            elif ending in UNREAD_TYPES:
                unread[ending] = unread.get(ending, 0) + 1
            elif ending in TYPES:
                if files_only and not _leads_to(entry.is_file):
                    raise DataError(f"{entry.path}: it is a pipe, a device or a link that leads nowhere; remove it")
                pictures.append(name)
    if unread:
        endings = ", ".join(f"{count} {ending}" for ending, count in sorted(unread.items()))
        logging.getLogger(_LOGGER).warning(f"{root}: passed over, as these types are not read: {endings}")
    return sorted(pictures)


def _leads_to(kind: Callable[[], bool]) -> bool:
    """Ask a directory entry for its kind; a link to itself is an error of the system, and none."""
    try:
        return kind()
    except OSError:
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from error
