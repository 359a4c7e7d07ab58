"""Writing an LMDB in BasicSR's format: beside its final name, restartable, verified, renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb
from filelock import FileLock, Timeout

from d2sm_plugin.data.decoding import decode_rgb
from d2sm_plugin.data.lmdb_progress import (
    ORIGIN_FILE,
    PROGRESS_FILE,
    Record,
    StoredRecord,
    origin_text,
    progress_line,
    read_progress,
)
from d2sm_plugin.data.lmdb_store import META_FILE, close_environment, close_vanished, missing_bytes
from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_whole

SUFFIX = ".lmdb"
# A process that is killed loses what it did since the last commit; a commit costs a wait for the disk.
_COMMIT_BYTES = 64 << 20
_COMMIT_SECONDS = 5.0
# Worker processes of a run that was killed may hold its lock until they notice, a few seconds later.
_LOCK_SECONDS = 15.0
_FIRST_MAP_SIZE = 1 << 28
_FULL_BELOW = 1 << 20  # bytes free
_REPLACED = ".replaced"  # how the name of an LMDB ends while a new one takes its place
_OUR_FILES = {"data.mdb", "lock.mdb", META_FILE, ORIGIN_FILE, PROGRESS_FILE}
_LOCK_FILE_BYTES = 8192  # of lmdb's own lock file, for the 126 readers that it allows by default
_SAMPLE = 32  # records that are decoded when not all are
_GO_ON = "what it holds is kept: free some space and give the same command again to go on from there"


class LmdbWriter:
    """Writer of ``NAME.lmdb`` by way of ``NAME.lmdb.partial``.

    Use it as a context manager: ``reuse`` once, ``put`` for every item that it did not name, then ``finish``. An item
    is one or more records that are stored together, known by an ``identity`` that says what they were made from.
    Whenever the process ends before ``finish``, the partial LMDB stays and the next run goes on from it.

    Args:
        path: final path; its name ends with ``.lmdb``.
        overwrite: replace an LMDB of that name when the new one is whole; else its existence is an error.

    Raises:
        DataError: when the path does not end with ``.lmdb``, exists, or another process is writing it; from the
            methods also when the disk is full or what was written does not read back.
    """

    def __init__(self, path: str | Path, overwrite: bool = False) -> None:
        self.path = Path(path)
        if self.path.suffix != SUFFIX:
            raise DataError(f"{path}: the name of an LMDB must end with {SUFFIX}, or BasicSR does not take it for one")
        if self.path.exists() and not overwrite:
            raise DataError(f"{path}: it exists already; say --overwrite to replace it, or give another --out")
        self.partial = self.path.with_name(self.path.name + ".partial")
        self._stored: dict[str, StoredRecord] = {}
        self._pending: list[tuple[str, list[Record]]] = []
        self._pending_bytes = 0
        self._committed = time.monotonic()
        self._lock = FileLock(self.path.with_name(self.path.name + ".lock"))
        self._environment: lmdb.Environment | None = None

    @property
    def _open_map(self) -> lmdb.Environment:
        if self._environment is None:
            raise RuntimeError(f"{self.path}: an LmdbWriter writes within its 'with' block only")
        return self._environment

    def __enter__(self) -> LmdbWriter:
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise DataError(f"{self.path}: another process is writing it; wait for that one to end") from None
        except OSError as error:
            raise DataError(f"{self.partial}: cannot be written ({error.strerror})") from error
        try:
            self._check_ours()
            self._environment = self._open()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._environment is not None:
                self._flush()  # keep what is whole, for the next run
        finally:
            self._close()
            self._release()

    def reuse(self, identities: Iterable[str], tick: Callable[[], object] = lambda: None) -> set[str]:
        """Return the items of an interrupted run that are intact and still wanted; forget everything else in it.

        Args:
            identities: of all items that the finished LMDB shall hold.
            tick: called after each item that was checked.
        """
        wanted, intact_items = set(identities), {}
        try:
            with self._open_map.begin() as transaction:
                for identity, records in read_progress(self.partial).items():
                    intact = (record.fits(transaction.get(record.key.encode("utf-8"))) for record in records)
                    if identity in wanted and all(intact):
                        intact_items[identity] = records
                    tick()
            self._stored = {record.key: record for records in intact_items.values() for record in records}
            self._forget_others()
            lines = [progress_line(identity, records) for identity, records in intact_items.items()]
            write_whole(self.partial / PROGRESS_FILE, "".join(lines), advice=_GO_ON)
        except (lmdb.Error, OSError) as error:
            raise self._cannot_write(error) from error
        return set(intact_items)

    def put(self, identity: str, records: list[Record]) -> None:
        """Store the records of one item.

        Raises:
            DataError: when a key is used already or is no legal key, or the disk is full.
        """
        for record in records:
            key = record.key.encode("utf-8")
            if not 0 < len(key) <= self._open_map.max_key_size():
                raise DataError(f"'{record.key}': a key has 1 to {self._open_map.max_key_size()} bytes; rename it")
            if record.key in self._stored:
                raise DataError(f"{self.path}: two images would have the key '{record.key}'; rename one of them")
            self._stored[record.key] = StoredRecord.of(record)
            self._pending_bytes += len(record.data)
        self._pending.append((identity, records))
        if self._pending_bytes >= _COMMIT_BYTES or time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self._flush()

    def finish(self, digest: str, verify_all: bool = False, tick: Callable[[], object] = lambda: None) -> int:
        """Verify every record, write ``meta_info.txt`` and give the LMDB its final name.

        Args:
            digest: see :func:`origin_digest`; kept in the LMDB.
            verify_all: decode every record; else all bytes are compared and a sample is decoded.
            tick: called after each record.

        Returns:
            the number of records.
        """
        if not self._stored:
            raise DataError(f"{self.path}: there is nothing to write")
        self._flush()
        self._close()
        self._verify(verify_all, tick)
        lines = [self._stored[key].meta_line() for key in sorted(self._stored)]
        write_whole(self.partial / META_FILE, "".join(lines), advice=_GO_ON, durable=True)
        write_whole(self.partial / ORIGIN_FILE, origin_text(digest, len(lines)), advice=_GO_ON, durable=True)
        self._rename()
        (self.path / PROGRESS_FILE).unlink(missing_ok=True)  # not before: until then it is what a new run needs
        return len(lines)

    def _open(self) -> lmdb.Environment:
        """Open the partial LMDB, without its content if that is of no use."""
        file = self.partial / "data.mdb"
        map_size = max(_FIRST_MAP_SIZE, 2 * file.stat().st_size if file.is_file() else 0)
        close_vanished()
        try:
            _reserve(self.partial / "lock.mdb")
            with contextlib.suppress(lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
                environment = lmdb.open(str(self.partial), map_size=map_size, readahead=False)
                if missing_bytes(environment, file) <= 0:
                    if environment.stat()["entries"] and not (self.partial / PROGRESS_FILE).is_file():
                        environment.close()
                        raise DataError(
                            f"{self.partial}: its records are not those of an interrupted run (no {PROGRESS_FILE}); "
                            f"move it away"
                        )
                    return environment
                environment.close()
            shutil.rmtree(self.partial)
            self.partial.mkdir()
            _reserve(self.partial / "lock.mdb")
            return lmdb.open(str(self.partial), map_size=_FIRST_MAP_SIZE, readahead=False)
        except (lmdb.Error, OSError) as error:
            raise self._cannot_write(error) from error

    def _forget_others(self) -> None:
        with self._open_map.begin(write=True) as transaction, transaction.cursor() as cursor:
            keys = [key for key in cursor.iternext(values=False) if key.decode("utf-8") not in self._stored]
            for key in keys:
                transaction.delete(key)

    def _flush(self) -> None:
        """Commit what is pending, in a larger map if it does not fit, and note it in the progress file."""
        while self._pending:
            try:
                with self._open_map.begin(write=True) as transaction:
                    for _, records in self._pending:
                        for record in records:
                            transaction.put(record.key.encode("utf-8"), record.data)
                with open(self.partial / PROGRESS_FILE, "a", encoding="utf-8") as file:
                    for identity, records in self._pending:
                        file.write(progress_line(identity, [self._stored[record.key] for record in records]))
            except lmdb.MapFullError:
                self._open_map.set_mapsize(2 * self._open_map.info()["map_size"])
                continue
            except (lmdb.Error, OSError) as error:
                raise self._cannot_write(error) from error
            self._pending, self._pending_bytes, self._committed = [], 0, time.monotonic()

    def _cannot_write(self, error: Exception) -> DataError:
        self._pending = []  # not stored, and not to be tried again on the way out
        reason = "the disk is full" if self._is_disk_full(error) else str(error)
        return DataError(f"{self.partial}: cannot be written ({reason}); {_GO_ON}")

    def _is_disk_full(self, error: Exception) -> bool:
        full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows knows no quotas
        if isinstance(error, lmdb.DiskError) or getattr(error, "errno", None) in full:
            return True
        # A write that the disk takes only in part reaches us as a mere input/output error.
        return shutil.disk_usage(self.path.parent).free < self._pending_bytes + _FULL_BELOW

    def _verify(self, verify_all: bool, tick: Callable[[], object]) -> None:
        keys = sorted(self._stored)
        step = 1 if verify_all else max(1, len(keys) // _SAMPLE)
        to_decode = set(keys[::step])
        environment = lmdb.open(str(self.partial), readonly=True, lock=False, readahead=False)
        try:
            count = environment.stat()["entries"]
            if count != len(keys):
                raise DataError(f"{self.partial}: it holds {count} records, {len(keys)} were written; remove it")
            for key in keys:
                with environment.begin() as transaction:
                    data = transaction.get(key.encode("utf-8"))
                stored = self._stored[key]
                source = f"{self.partial}: record '{key}'"
                if data is None or not stored.fits(data):
                    raise DataError(f"{source} does not read back as written; check the disk and run again")
                if key in to_decode and decode_rgb(data, source).shape[:2] != tuple(stored.shape[:2]):
                    raise DataError(f"{source} decodes to another size than {stored.shape}; remove it and run again")
                tick()
        finally:
            environment.close()

    def _rename(self) -> None:
        close_environment(self.path)
        old = self.path.with_name(f".{self.path.name}.{os.getpid()}{_REPLACED}")
        try:
            if self.path.exists():
                self.path.rename(old)
            self.partial.rename(self.path)
        except OSError as error:
            if old.exists() and not self.path.exists():
                old.rename(self.path)
            raise DataError(f"{self.path}: cannot be put in place ({error}); {self.partial} is whole") from error
        for replaced in self.path.parent.glob(f".{glob.escape(self.path.name)}.*{_REPLACED}"):
            shutil.rmtree(replaced, ignore_errors=True)  # this one, and those of processes that were killed here

    def _check_ours(self) -> None:
        """Refuse to go on in, or to replace, what another program or the user left under these names."""
        if self.path.exists() and not (self.path / "data.mdb").is_file():
            raise DataError(f"{self.path}: it is no LMDB, so it is not replaced; move it away or give another --out")
        strange = [name for name in os.listdir(self.partial) if name not in _OUR_FILES and not name.startswith(".")]
        if strange:
            raise DataError(
                f"{self.partial}: it holds '{strange[0]}', so it is no unfinished LMDB of ours; move it away"
            )

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None

    def _release(self) -> None:
        self._lock.release()
        with contextlib.suppress(OSError):
            os.unlink(self._lock.lock_file)


def _reserve(file: Path) -> None:
    """Take the disk space of lmdb's lock file: it is mapped into memory, where a full disk would be a bus error."""
    if hasattr(os, "posix_fallocate"):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o664)
        try:
            os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
        finally:
            os.close(descriptor)
