"""Files that appear whole or not at all, and what to do where they cannot be written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from d2sm_plugin.errors import D2SMError, DataError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows knows no quotas
_REMEDIES = {
    **dict.fromkeys(_FULL, "free some space, or choose another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file stands where a folder is to be; choose another folder"),
    errno.EISDIR: "a folder of that name is there; choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk",
}
_LONGEST_STEM = 200  # bytes of a file's name that the name of its unfinished copy repeats; file systems allow 255


def existing_file(path: str | Path) -> Path | None:
    """Return the path of a file, ``~`` written out; None where there is none, or no file can have such a name."""
    try:
        file = Path(path).expanduser()
        return file if file.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, an unknown home, a null character
        return None


def regular(path: str | Path) -> Path:
    """Return the path of a file that is about to be read.

    Raises:
        OSError: for a pipe or a device, of which reading may have no end.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "it is a pipe or a device; give a file")
    return path


@contextmanager
def reading_again(path: str | Path, remedy: str) -> Iterator[None]:
    """Context in which a file that this package wrote is read: what is wrong in it becomes one line.

    Args:
        path: of the file.
        remedy: what to do where it is damaged.

    Raises:
        DataError: when it cannot be read, or does not hold what was written.
    """
    try:
        yield
    except D2SMError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, csv.Error) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(f"{path}: it is damaged ({reason}); {remedy}") from error


@contextmanager
def whole_file(
    path: str | Path, kind: type[D2SMError] = DataError, advice: str = "", durable: bool = False
) -> Iterator[IO[bytes]]:
    """Open a file to be written; it takes its name, in place of an older one, when the block ends without an error.

    Until then it is a hidden ``.NAME.PID.partial`` beside, which an error removes. Folders are made as needed. What is
    no regular file (``/dev/stdout``) is written directly.

    Args:
        path: of the file.
        kind: class of the error when it cannot be written.
        advice: what to do then, instead of what follows from the system's error alone.
        durable: wait until the disk has it, so that it survives a power failure.

    Raises:
        D2SMError: of class ``kind``, when the system refuses; an older file of that name stays as it was.
    """
    path = Path(path)
    partial = _partial_name(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            partial = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        if partial != path:
            os.replace(partial, path)
    except BaseException as error:
        if partial != path:
            _remove(partial)
        if isinstance(error, OSError):
            raise cannot_write(path, error, kind, advice) from error
        raise


def write_whole(path: str | Path, content: str | bytes, advice: str = "", durable: bool = False) -> None:
    """Write a text (UTF-8, line ends as they are) or bytes as a file, see :func:`whole_file`."""
    with whole_file(path, advice=advice, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value: object) -> None:
    """Write a value as an indented JSON file, see :func:`whole_file`."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table as a CSV file, None as an empty cell; see :func:`whole_file`."""
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    write_whole(path, text.getvalue())


def link_whole(source: Path, path: Path, kind: type[D2SMError] = DataError, advice: str = "") -> None:
    """Give a file a second name, in place of an older file of that name: as a link, or a copy where there are none.

    Raises:
        D2SMError: of class ``kind``, when the system refuses.
    """
    partial = _partial_name(path)
    try:
        _remove(partial)
        try:
            os.link(source, partial)
        except OSError:  # a file system without links
            shutil.copyfile(source, partial)
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error, kind, advice) from error
    finally:
        _remove(partial)  # still there after an error, or where both names were links to one file already


def hide_file(path: Path) -> Path:
    """Take a file's name away, so that it counts for nothing and a killed process leaves no more than it.

    Returns:
        Its new name, which :func:`remove_partial_files` would find.
    """
    hidden = _partial_name(path)
    with suppress(FileNotFoundError):
        os.replace(path, hidden)
    return hidden


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes left in a folder, and below, that no other process is writing to."""
    for file in folder.rglob(".*.partial"):
        _remove(file)


def cannot_write(path: str | Path, error: OSError, kind: type[D2SMError] = DataError, advice: str = "") -> D2SMError:
    """Return the error that says why a file or folder cannot be written and what to do.

    Args:
        path: of the file or folder.
        error: of the system.
        kind: class of the result.
        advice: what to do, instead of what follows from ``error`` alone.
    """
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if error.errno in _FULL:
        reason += f"; {free_space(Path(path)) / 2**20:.0f} MiB free"
    remedy = advice or _REMEDIES.get(error.errno or 0, "")
    return kind(f"{path}: cannot be written ({reason})" + (f"; {remedy}" if remedy else ""))


def free_space(path: Path) -> int:
    """Bytes free on the disk that a file or folder, which need not exist yet, is on."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def _partial_name(path: Path) -> Path:
    """Name of the unfinished file: the process is in it, as two may write one file, and it is never too long."""
    stem = os.fsencode(path.name)[:_LONGEST_STEM].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{os.getpid()}.partial")


def _remove(path: Path) -> None:
    with suppress(OSError):  # the error that led here is the one to report
        path.unlink(missing_ok=True)
