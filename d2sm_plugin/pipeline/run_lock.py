"""One process at a time in the folder of a run."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import cannot_write

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RunLock:
    """The lock of a folder; it goes with the folder when that is renamed, and ends with the process however that ends.

    It is a lock of POSIX, which belongs to the process alone: workers that outlive a killed parent do not hold it.

    Args:
        folder: of the run; made where it is missing.

    Raises:
        DataError: when another process holds it, or the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] | None = None
        self._other: FileLock | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                self._other = FileLock(folder / LOCK)
                self._other.acquire(timeout=0)
            else:
                self._file = (folder / LOCK).open("wb")
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError, Timeout) as error:
            self.release()
            if isinstance(error, PermissionError) and not os.access(folder, os.W_OK):
                raise cannot_write(folder, error) from error
            raise DataError(
                f"{folder}: another process is at work under this name; wait for it to end, or give another name"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                self.release()
                raise cannot_write(folder, error) from error
            warnings.warn(f"{folder}: its file system has no locks; start one training a name only", stacklevel=2)

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self._file.close()
        if self._other is not None:
            self._other.release()
