"""Records of an LMDB, and the notes that let an interrupted run go on."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: In a finished LMDB: what it was made from, so that a second run can tell that nothing is left to do.
ORIGIN_FILE = "prepared_from.json"
#: In a partial LMDB: one line for each item that is safely stored.
PROGRESS_FILE = "progress.jsonl"


@dataclass(frozen=True)
class Record:
    """One encoded image.

    Attributes:
        key: unique in the LMDB.
        data: bytes of an image file.
        shape: (height, width, channels) of the decoded image.
        suffix: extension that fits ``data``.
        level: PNG compression level, or -1 where the bytes were taken over from a source file.
    """

    key: str
    data: bytes
    shape: tuple[int, ...]
    suffix: str = ".png"
    level: int = -1


@dataclass(frozen=True)
class StoredRecord:
    """Notes on a stored record: enough for ``meta_info.txt`` and to tell whether it is intact."""

    key: str
    suffix: str
    shape: tuple[int, ...]
    level: int
    length: int
    checksum: int

    @classmethod
    def of(cls, record: Record) -> StoredRecord:
        """Return the note on a record."""
        data = record.data
        return cls(record.key, record.suffix, record.shape, record.level, len(data), zlib.crc32(data))

    def fits(self, data: bytes | None) -> bool:
        """Return whether ``data`` are the bytes that were stored."""
        return data is not None and len(data) == self.length and zlib.crc32(data) == self.checksum

    def meta_line(self) -> str:
        """Return the line of ``meta_info.txt``."""
        return f"{self.key}{self.suffix} ({','.join(map(str, self.shape))}) {self.level}\n"


def origin_digest(identities: Iterable[str]) -> str:
    """Return one digest for the sources and settings that an LMDB is made from, whatever their order."""
    return hashlib.blake2b("\n".join(sorted(identities)).encode("utf-8"), digest_size=16).hexdigest()


def read_origin(path: str | Path) -> str | None:
    """Return the digest of what a finished LMDB was made from; None where it does not say."""
    try:
        return json.loads((Path(path) / ORIGIN_FILE).read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def origin_text(digest: str, count: int) -> str:
    """Return the content of :data:`ORIGIN_FILE`."""
    return json.dumps({"digest": digest, "records": count}) + "\n"


def progress_line(identity: str, records: Sequence[StoredRecord]) -> str:
    """Return the line of :data:`PROGRESS_FILE` for one item."""
    return json.dumps({"item": identity, "records": [asdict(record) for record in records]}) + "\n"


def read_progress(folder: Path) -> dict[str, list[StoredRecord]]:
    """Return the records of every item that the progress file in ``folder`` names."""
    file = folder / PROGRESS_FILE
    if not file.is_file():
        return {}
    items = {}
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            items[entry["item"]] = [StoredRecord(**fields) for fields in entry["records"]]
        except (ValueError, KeyError, TypeError):
            continue  # the process was killed while it wrote this line; its item is simply done again
    return items
