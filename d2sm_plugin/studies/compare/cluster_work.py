"""The work of one job of a cluster; a module that imports little, as every job begins with it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2sm_plugin.extras import import_extra

_POLL_SECONDS = 0.2


class Work:
    """One run as a job calls it: the child process, which is asked to stop where the job is.

    A job that the cluster preempts, or whose time ends, stops likewise and is handed in again, where it continues.

    Args:
        command: arguments of Python.
        log: file that the output is appended to.
        stop: file that asks the run to stop.
        folder: working directory.
    """

    def __init__(self, command: Sequence[str], log: Path, stop: Path, folder: Path) -> None:
        self.command, self.log, self.stop, self.folder = list(command), log, stop, folder
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run the child process to its end; returns its exit status."""
        cores = os.environ.get("SLURM_CPUS_PER_TASK", "")
        env = {"OMP_NUM_THREADS": cores, **os.environ} if cores else dict(os.environ)
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=env,
            )
        asked = False
        while self.child.poll() is None:
            if self.stop.exists() and not asked:
                self.child.terminate()
                asked = True
            time.sleep(_POLL_SECONDS)
        return self.child.returncode

    def checkpoint(self) -> Any:
        """Stop the child process, which saves its state, and return the same work for submitit to hand in again."""
        helpers = import_extra("submitit.helpers", "d2sm compare --submit")
        if self.child is not None:
            self.child.terminate()
            self.child.wait()
        return helpers.DelayedSubmission(Work(self.command, self.log, self.stop, self.folder))
