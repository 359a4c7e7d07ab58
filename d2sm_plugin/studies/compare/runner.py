"""Processes of a suite: several at once where wished, and stopped in order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from d2sm_plugin.pipeline.interrupt import StopSignals
from d2sm_plugin.studies.compare.child import BUSY, STOPPED
from d2sm_plugin.studies.compare.jobs import LOG, SuiteRun

_POLL_SECONDS = 0.2
_LAST_LINES = 12


@dataclass
class Outcome:
    """Outcome of the jobs of a call.

    Attributes:
        failed: job -> exit status.
        stopped: whether the call was asked to stop.
    """

    failed: dict[str, int] = field(default_factory=dict)
    stopped: bool = False


class Process(Protocol):
    """Interface of a run in the making, here or on a cluster."""

    def poll(self) -> int | None:
        """Return the exit status, None before the end."""

    def terminate(self) -> None:
        """Ask it to save its state and stop."""


@dataclass
class _Child:
    job: SuiteRun
    slot: int
    process: Process


class Runner:
    """Starter of a process for every job that is not finished.

    Jobs that a process of another call is at work on are left to it and looked at again; SIGTERM and Ctrl-C are passed
    on to the children as SIGTERM, upon which a training saves its state.

    Args:
        jobs: in the order in which they start.
        slots: how many run at once.
        on_finished: called after each job that ended well.
        start: starts a job in one of so many slots; None for :func:`start_process`.
    """

    def __init__(
        self,
        jobs: Sequence[SuiteRun],
        slots: int,
        on_finished: Callable[[], None],
        start: Callable[[SuiteRun, int, int], Process] | None = None,
    ) -> None:
        self.start = start or start_process
        self.waiting = [job for job in jobs if not job.finished()]
        self.slots = slots
        self.on_finished = on_finished
        self.running: list[_Child] = []
        self.outcome = Outcome()
        self.bar = tqdm(total=len(jobs), initial=len(jobs) - len(self.waiting), unit="run", dynamic_ncols=True)

    def run(self) -> Outcome:
        """Run everything; returns when nothing is left, or when all children have stopped as asked."""
        with self.bar, StopSignals() as signals:
            try:
                while self.running or (self.waiting and not self.outcome.stopped):
                    self._collect()
                    if signals.asked and not self.outcome.stopped:
                        self._stop()
                    if not self.outcome.stopped:
                        self._start()
                    time.sleep(_POLL_SECONDS)
            finally:
                for child in self.running:  # an error here, or a second signal: trainings save their state all the same
                    child.process.terminate()
        return self.outcome

    def _start(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.slots:
                return
            if job.finished():  # by another call
                self.waiting.remove(job)
                self._done(job)
            elif not job.busy():
                self.waiting.remove(job)
                slot = min(set(range(self.slots)) - {child.slot for child in self.running})
                self.running.append(_Child(job, slot, self.start(job, slot, self.slots)))
                self._show()

    def _collect(self) -> None:
        for child in list(self.running):
            status = child.process.poll()
            if status is None:
                continue
            self.running.remove(child)
            if status == 0:
                self._done(child.job)
            elif status == BUSY or (child.job.processes > 1 and child.job.busy()):  # torchrun has a status of its own
                self.waiting.append(child.job)
            elif status == STOPPED or self.outcome.stopped:
                if not self.outcome.stopped:  # someone stopped this child alone: the others stop as well
                    self._stop()
            else:
                self._failed(child.job, status)
            self._show()

    def _done(self, job: SuiteRun) -> None:
        self.bar.update()
        self.on_finished()

    def _failed(self, job: SuiteRun, status: int) -> None:
        self.outcome.failed[job.name] = status
        log = job.folder / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        text = "\n".join(f"    {line}" for line in lines)
        seed = "" if job.seed is None else f", seed {job.seed}"
        self.bar.write(f"{job.row}{seed}: failed with status {status}; the last lines of {log}:\n{text}")
        self.bar.update()

    def _stop(self) -> None:
        self.outcome.stopped = True
        self.bar.write("Stopping: the trainings save their state; the same command continues them.")
        for child in self.running:
            child.process.terminate()

    def _show(self) -> None:
        names = [child.job.row + ("" if child.job.seed is None else f" #{child.job.seed}") for child in self.running]
        self.bar.set_postfix_str(", ".join(names))


def command_of(job: SuiteRun) -> list[str]:
    """Return the arguments of Python that do what is left of a job, under torchrun where its training has processes."""
    arguments = ["-m", "d2sm_plugin.studies.compare.child", str(job.folder), job.kind, job.test_name]
    if processes_of(job) == 1:
        return arguments
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes_of(job)}"]
    return [*torchrun, *arguments, "--launcher", "pytorch"]


def processes_of(job: SuiteRun) -> int:
    """Return how many processes do what is left of a job."""
    return 1 if job.trained() else job.processes


def start_process(job: SuiteRun, slot: int, slots: int) -> subprocess.Popen[bytes]:
    """Start the process of a job; its output is appended to its log."""
    job.write_options()
    with (job.folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *command_of(job)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(slot, slots, processes_of(job)),
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone, which passes it on
        )


def environment(slot: int, slots: int, processes: int = 1) -> dict[str, str]:
    """Return the environment of the job in one of so many slots: its share of cores, and GPUs in turn.

    ``OMP_NUM_THREADS`` stays where it is set already.
    """
    env = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    env.setdefault("OMP_NUM_THREADS", str(max(1, cores // (slots * processes))))
    env["PYTHONPATH"] = package_path(env.get("PYTHONPATH"))
    count = torch.cuda.device_count()
    if count:
        visible = env.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(number) for number in range(count)]
        chosen = {devices[(slot * processes + number) % len(devices)]: None for number in range(processes)}
        env["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
    return env


def package_path(path: str | None) -> str:
    """Return Python's search path with this package on it, which need not be installed."""
    return os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[3]), path)))
