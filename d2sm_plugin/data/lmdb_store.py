"""One LMDB reader for the whole process: two phases, worker processes and BasicSR's own datasets share it.

lmdb refuses to open an environment that the process holds already, so environments live in one table here and are
looked up at every read. After a fork the child drops the inherited handle and opens its own.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lmdb
from basicsr.utils.file_client import BaseStorageBackend, FileClient

from d2sm_plugin.data.keys import check_key
from d2sm_plugin.data.lmdb_pages import damaged_page
from d2sm_plugin.errors import DataError, OptionError, suggest
from d2sm_plugin.files import regular

META_FILE = "meta_info.txt"
_MANY_KEYS = 50  # beyond this a message does not list the known records
_META_LINE = re.compile(r"^(?P<name>.+?)\s+\((?P<shape>\d+\s*(?:,\s*\d+\s*)+),?\)(?:\s+(?P<level>-?\d+))?\s*$")
_REMEDY = "prepare it again with d2sm prepare"


@dataclass(frozen=True)
class _Opened:
    environment: lmdb.Environment
    identity: tuple[int, int]  # device and inode of data.mdb: tells a replaced LMDB from the one that is open
    pid: int


_opened: dict[str, _Opened] = {}
_lock = threading.RLock()


def _after_fork() -> None:
    global _lock  # noqa: PLW0603  # another thread of the parent may have held the inherited one
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class MetaLine:
    """Line of ``meta_info.txt`` for one record: file name with extension, (height, width, channels), compression."""

    name: str
    shape: tuple[int, ...]
    level: int | None


class LmdbReader:
    """Reader of the records of one LMDB in BasicSR's format.

    Objects are cheap: all of one path share one environment (read only, without locks or read-ahead), in this process
    and, opened anew, in every child process. They pickle.

    Args:
        path: folder that holds ``data.mdb``.

    Raises:
        DataError: when the LMDB is missing, empty, truncated or not an LMDB.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._real = os.path.realpath(self.path)
        with _lock:
            _forget_replaced(self._real)
            self._count = int(_environment(self._real, self.path).stat()["entries"])
        if self._count == 0:
            raise DataError(f"{self.path}: this LMDB holds no records; {_REMEDY}")

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def __reduce__(self) -> tuple[type[LmdbReader], tuple[str]]:
        return type(self), (self.path,)

    def keys(self) -> list[str]:
        """Return the keys of all records, sorted; only the index is read, not the records.

        Raises:
            DataError: when the LMDB is damaged there.
        """
        environment = _environment(self._real, self.path)
        with self._reading("the list of records"), environment.begin() as transaction, transaction.cursor() as cursor:
            return sorted(key.decode("utf-8", "replace") for key in cursor.iternext(values=False))

    def get(self, key: str) -> bytes:
        """Return the bytes of a record.

        Raises:
            DataError: when there is no such record, or the LMDB is damaged there.
        """
        value = self._find(key)
        if value is None:
            names = self.keys() if self._count <= _MANY_KEYS else []
            raise DataError(
                f"{self.path}: it has no record '{key}' (it holds {self._count})"
                + (suggest(key, names) if names else f"; {_REMEDY} or mend {META_FILE}")
            )
        return value

    def _find(self, key: str) -> bytes | None:
        encoded = key.encode("utf-8")
        if not encoded:
            return None
        environment = _environment(self._real, self.path)
        with self._reading(f"record '{key}'"):
            try:
                with environment.begin() as transaction:
                    return transaction.get(encoded)
            except lmdb.BadValsizeError:  # longer than LMDB's keys can be, so not in it
                return None

    @contextmanager
    def _reading(self, content: str) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise DataError(f"{self.path}: {content} cannot be read ({error}); {_REMEDY}") from error


def read_meta_info(path: str | Path) -> dict[str, MetaLine]:
    """Return what ``meta_info.txt`` of an LMDB says, by record key, in the file's order.

    A line reads ``NAME.png (H,W,C) LEVEL``; the key is the name without its extension.

    Raises:
        DataError: when the file is missing, empty, malformed, names a key twice, or one that leads out of a folder.
    """
    file = Path(path) / META_FILE
    try:
        text = regular(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: {META_FILE} is missing; BasicSR's LMDB format has one; {_REMEDY}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); {_REMEDY}") from error
    records: dict[str, MetaLine] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _META_LINE.match(line)
        if match is None:
            raise DataError(f"{file}: line {number}: expected 'NAME.png (H,W,C) LEVEL', got '{line.strip()[:80]}'")
        key = check_key(os.path.splitext(match["name"])[0], f"{file}: line {number}")
        if key in records:
            raise DataError(f"{file}: line {number}: record '{key}' is named twice; {_REMEDY}")
        shape = tuple(int(number) for number in match["shape"].split(","))
        records[key] = MetaLine(match["name"], shape, int(match["level"]) if match["level"] else None)
    if not records:
        raise DataError(f"{file}: it names no records; {_REMEDY}")
    return records


def close_environment(path: str | Path) -> None:
    """Close the environment of a path in this process, if one is open; readers open it anew when they need it."""
    with _lock:
        opened = _opened.pop(os.path.realpath(path), None)
        if opened is not None:
            opened.environment.close()


def _environment(real: str, shown: str) -> lmdb.Environment:
    opened = _opened.get(real)
    if opened is not None and opened.pid == os.getpid():
        return opened.environment
    with _lock:
        opened = _opened.get(real)
        if opened is not None and opened.pid == os.getpid():
            return opened.environment
        # A handle inherited through fork must not be used here, and lmdb opens no second one beside it.
        close_environment(real)
        environment = _open(real, shown)
        _opened[real] = _Opened(environment, _identity(real), os.getpid())
        return environment


def close_vanished() -> None:
    """Close the environments whose files are gone or replaced: lmdb would take a new file in their place for them."""
    for real in list(_opened):
        _forget_replaced(real)


def _forget_replaced(real: str) -> None:
    """Forget the environment of an LMDB whose files were replaced since it was opened."""
    opened = _opened.get(real)
    if opened is None:
        return
    try:
        unchanged = _identity(real) == opened.identity
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        close_environment(real)


def _identity(real: str) -> tuple[int, int]:
    status = os.stat(os.path.join(real, "data.mdb"))
    return status.st_dev, status.st_ino


def _open(real: str, shown: str) -> lmdb.Environment:
    file = os.path.join(real, "data.mdb")
    if not os.path.isdir(real):
        raise DataError(f"{shown}: no such LMDB folder; make it with d2sm prepare or correct the path")
    if not os.path.isfile(file):
        raise DataError(f"{shown}: it holds no data.mdb, so it is no LMDB; {_REMEDY} or correct the path")
    size = os.path.getsize(file)
    if size == 0:
        raise DataError(f"{shown}: data.mdb is empty (0 bytes); {_REMEDY}")
    close_vanished()
    try:
        environment = lmdb.open(real, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        reason = str(error).removeprefix(f"{real}: ")
        raise DataError(f"{shown}: data.mdb cannot be opened as an LMDB ({reason}); {_REMEDY}") from error
    missing = missing_bytes(environment, file)
    if missing > 0:
        environment.close()
        raise DataError(f"{shown}: data.mdb is truncated ({size} bytes, {missing} are missing); {_REMEDY}")
    damaged = damaged_page(file)
    if damaged is not None:
        environment.close()
        raise DataError(f"{shown}: data.mdb is damaged (page {damaged}); {_REMEDY}")
    return environment


def missing_bytes(environment: lmdb.Environment, file: str | Path) -> int:
    """Return how many bytes a ``data.mdb`` lacks, 0 or less when it is whole.

    LMDB maps the file into memory without looking at its length: reading past its end would kill the process.
    """
    return (environment.info()["last_pgno"] + 1) * environment.stat()["psize"] - os.path.getsize(file)


class SharedLmdbBackend(BaseStorageBackend):
    """BasicSR's ``lmdb`` storage backend on top of :class:`LmdbReader`.

    Takes the arguments of BasicSR's own. The settings of the environment (``lock``, ``readahead``, ...) are accepted
    and decided here, because all readers of a path share one.

    Raises:
        OptionError: when the numbers of paths and keys differ, or when it is asked to write.
        DataError: as :class:`LmdbReader`.
    """

    def __init__(
        self,
        db_paths: str | Path | Sequence[str | Path],
        client_keys: str | Sequence[str] = "default",
        readonly: bool = True,
        lock: bool = False,
        readahead: bool = False,
        **settings: object,
    ) -> None:
        paths = [db_paths] if isinstance(db_paths, (str, Path)) else list(db_paths)
        names = [client_keys] if isinstance(client_keys, str) else list(client_keys)
        if len(paths) != len(names):
            raise OptionError(f"io_backend: {len(paths)} db_paths for {len(names)} client_keys; give one key each")
        if not readonly:
            raise OptionError("io_backend.readonly: datasets only read; remove the key")
        self.db_paths = [str(path) for path in paths]
        self._readers = {name: LmdbReader(path) for name, path in zip(names, paths, strict=True)}

    def get(self, filepath: str | Path, client_key: str = "default") -> bytes:
        """Return the record ``filepath`` of the LMDB known as ``client_key``."""
        if client_key not in self._readers:
            raise OptionError(f"io_backend: no LMDB is known as '{client_key}'{suggest(client_key, self._readers)}")
        return self._readers[client_key].get(str(filepath))

    def get_text(self, filepath: str | Path) -> str:
        """Return the record ``filepath`` of the only (or first) LMDB as text."""
        return self.get(filepath, next(iter(self._readers))).decode("utf-8")


def share_with_host() -> None:
    """Make BasicSR's ``FileClient`` read LMDBs through this module, in memory only.

    Without it, BasicSR's datasets would open environments of their own, which lmdb refuses for a path in use.
    """
    FileClient._backends["lmdb"] = SharedLmdbBackend


share_with_host()
