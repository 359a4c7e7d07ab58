"""Runs of a suite as jobs of a cluster, through submitit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import OptionError
from d2sm_plugin.extras import import_extra
from d2sm_plugin.safe_yaml import parse_yaml
from d2sm_plugin.studies.compare.child import STOPPED
from d2sm_plugin.studies.compare.cluster_work import Work
from d2sm_plugin.studies.compare.jobs import LOG, SuiteRun
from d2sm_plugin.studies.compare.runner import command_of, package_path

CLUSTERS = ("slurm", "local")
_STOP = "stop"
_OF_ONE_TASK = ("nodes", "tasks_per_node", "ntasks_per_node", "num_tasks")
_DEFAULTS = {"timeout_min": 1440, "cpus_per_task": 2}
_FAILED = 1


class Submission:
    """Starter of a run as a job of a cluster, in the place of a process here.

    Args:
        cluster: one of :data:`CLUSTERS`; ``local`` are processes of this machine, to try it out.
        settings: entries ``NAME=VALUE`` for submitit's executor, such as ``timeout_min=600``, ``gpus_per_node=1`` or
            ``slurm_partition=gpu``; a job has a day and two cores unless they say otherwise.
        out: folder of all runs, where submitit keeps its files.

    Raises:
        DependencyError: without submitit.
        OptionError: where there is no such cluster, and for a setting that submitit does not know or that has no value.
    """

    def __init__(self, cluster: str, settings: Sequence[str], out: Path) -> None:
        chosen = {**_DEFAULTS, **_read(settings)}
        submitit = import_extra("submitit", "d2sm compare --submit")
        self.folder = (out / "submitit").resolve()
        new = [folder for folder in (self.folder, self.folder.parent) if not folder.exists()]
        try:
            self.executor: Any = submitit.AutoExecutor(self.folder, cluster=cluster)
        except RuntimeError as error:
            raise OptionError(f"--submit {cluster}: {error}") from error
        try:
            self.executor.update_parameters(**chosen)
        except (NameError, TypeError, ValueError, AssertionError) as error:
            for folder in new:  # which submitit has made
                with suppress(OSError):
                    folder.rmdir()
            reason = " ".join(str(error).split())
            raise OptionError(f"--submit-settings: submitit refuses them ({reason})") from error

    def __call__(self, job: SuiteRun, slot: int, slots: int) -> SubmittedRun:
        """Hand a run in; its output is appended to its log.

        Args:
            job: the run.
            slot: not used: the cluster gives cores and GPUs.
            slots: not used.
        """
        job.write_options()
        stop = job.folder.resolve() / _STOP
        stop.unlink(missing_ok=True)
        self.executor.update_parameters(name=job.name[:64])
        log = job.folder.resolve() / LOG
        work = Work(command_of(job), log, stop, Path.cwd())
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = package_path(before)  # a job has the environment of the process that hands it in
        try:
            return SubmittedRun(self.executor.submit(work), stop, log)
        except Exception as error:  # the cluster's commands may fail in any way
            raise OptionError(f"--submit: the cluster takes no job ({' '.join(str(error).split())})") from error
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


class SubmittedRun:
    """A run that was handed in, with the methods of a process.

    Args:
        job: submitit's.
        stop: file that asks the run to stop once it is there.
        log: of the run; what ends a job from outside is appended to it.
    """

    def __init__(self, job: Any, stop: Path, log: Path) -> None:
        self.job, self.stop, self.log = job, stop, log

    def poll(self) -> int | None:
        """Return the run's exit status, None while it waits or runs."""
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception as error:  # noqa: BLE001  # submitit raises whatever went wrong: a killed job, a lost node
            with self.log.open("a", encoding="utf-8", errors="replace") as log:
                log.write(f"The job ended without a result: {type(error).__name__}: {error}\n")
            return STOPPED if self.stop.exists() else _FAILED

    def terminate(self) -> None:
        """Ask the run to save its state and stop; a job that still waits is taken back."""
        self.stop.touch()
        if self.job.state.upper() in ("PENDING", "REQUEUED"):
            self.job.cancel(check=False)


def _read(settings: Sequence[str]) -> Mapping[str, Any]:
    read = {}
    for entry in settings:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise OptionError(f"--submit-settings {entry}: expected NAME=VALUE, such as timeout_min=600")
        if name.removeprefix("slurm_") in _OF_ONE_TASK:
            raise OptionError(f"--submit-settings {name}: a run is one task of a job; remove it")
        if name == "name":
            raise OptionError("--submit-settings name: a job has the name of its run; remove it")
        read[name] = parse_yaml(value, f"--submit-settings {entry}")
        if read[name] is None:
            raise OptionError(f"--submit-settings {entry}: a value is missing; add it or remove the setting")
    return read
