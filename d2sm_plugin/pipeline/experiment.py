"""The folder of a run, laid out as BasicSR does."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from basicsr.version import __version__ as host_version

from d2sm_plugin.files import cannot_write, remove_partial_files, write_whole
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.pipeline.run_lock import RunLock
from d2sm_plugin.version import __version__


class Folder:
    """The folder of one run and what is kept in it, with the lock that makes this process the only one in it.

    Args:
        root: ``experiments`` or ``results``.
        name: of the run.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        self.path = Path(root).expanduser() / name
        self.visualization = self.path / "visualization"
        self.metrics_file = self.path / "metrics.csv"
        self.tensorboard = Path(root).expanduser().parent / "tb_logger" / name
        self._lock: RunLock | None = None

    def lock(self) -> None:
        """Keep other processes out of the folder until :meth:`close`; it is made where it is missing.

        Raises:
            DataError: when another process is at work in it.
        """
        if self._lock is None:
            self._lock = RunLock(self.path)

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def start(self, option_file: str | Path, options: Mapping[str, Any], resume: bool) -> None:
        """Make the folder; one left by an earlier run of that name is put aside (``_archived_TIME``), as BasicSR does.

        The option file is kept as it was given, with what it extends merged in, and, as ``options.yml``, with every
        default filled in.

        Raises:
            DataError: when the folder cannot be made or written, or another process is at work in it.
        """
        if not resume:
            self._put_aside(self.tensorboard if options["is_train"] else None)
        self.lock()
        remove_partial_files(self.path)
        file = read_option_file(option_file)
        header = f"# {time.asctime()}\n# {sys.argv[0]} {shlex.join(sys.argv[1:])}\n\n"
        write_whole(self.path / file.files[0].name, header + file.text())
        filled_in = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)
        write_whole(self.path / "options.yml", filled_in)

    def _put_aside(self, curves: Path | None) -> None:
        if self.path.exists():
            self.lock()
        aside = f"_archived_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() % 1000:03d}"
        try:
            for folder in filter(None, (self.path, curves)):
                if folder.exists():
                    folder.rename(f"{folder}{aside}")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        finally:
            self.close()


def versions() -> str:
    """Return the versions that results may depend on, in one line."""
    return (
        f"d2sm_plugin {__version__}, basicsr {host_version}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {sys.version.split()[0]}"
    )
