"""Processes that take part in one step of a measurement together: by gloo, or by NCCL with a GPU each."""

from __future__ import annotations

import tempfile
import time
import weakref
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing

from d2sm_plugin.losses import QueueSampler
from d2sm_plugin.losses.gather import gather_rows, share_of
from d2sm_plugin.studies.benchmark.material import feature_pair, fill_queue
from d2sm_plugin.studies.benchmark.measure import Settings, Spent, Step, synchronise

_PATIENCE = 300  # seconds that a step may take


class LossProcesses:
    """A group of processes, each with its own rows of features and a queue that is the same in all of them.

    Args:
        count: of processes, one thread each.
        device: ``cpu``, or ``cuda`` for a GPU for each process.
        rows: new samples of each process in a step.
        dimension: of their features.
        queue: samples in the queue, a multiple of those of a step; it is full when the group is ready.
        shared: each process compares its own samples alone; else each compares all of them.
    """

    def __init__(self, count: int, device: str, rows: int, dimension: int, queue: int, shared: bool = True) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="d2sm_processes_")
        self._pipes: list[Connection] = []
        processes: list[BaseProcess] = []
        for rank in range(count):
            parent_end, child_end = context.Pipe()
            arguments = (child_end, self._folder.name, rank, count, device, rows, dimension, queue, shared)
            process = context.Process(target=work, args=arguments, daemon=True)
            process.start()
            child_end.close()
            self._pipes.append(parent_end)
            processes.append(process)
        weakref.finalize(self, _stop, self._pipes, processes)
        self._answers()

    def step(self) -> Spent:
        """Let all processes make one step; the wall time of the slowest and the mean CPU time."""
        for pipe in self._pipes:
            pipe.send("step")
        spent = self._answers()
        return Spent(max(wall for wall, _ in spent), sum(cpu for _, cpu in spent) / len(spent))

    def _answers(self) -> list[tuple[float, float]]:
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(_PATIENCE):
                raise RuntimeError(f"process {rank} of the measurement has not answered for {_PATIENCE} s")
            answers.append(pipe.recv())
        return answers


def prepare_processes(count: int, device: str, rows: int, dimension: int, queue: int, shared: bool = True) -> Step:
    """Start a group and return its step."""
    return LossProcesses(count, device, rows, dimension, queue, shared).step


def _stop(pipes: list[Connection], processes: list[BaseProcess]) -> None:
    for pipe in pipes:
        pipe.close()  # the processes end when nobody talks to them
    for process in processes:
        process.join(10)
        if process.is_alive():
            process.terminate()


def work(
    pipe: Connection,
    folder: str,
    rank: int,
    count: int,
    device: str,
    rows: int,
    dimension: int,
    queue: int,
    shared: bool,
) -> None:
    """Make a step for every message of the pipe, and answer with its wall and CPU time in seconds."""
    torch.set_num_threads(1)
    store = (Path(folder) / "store").as_uri()
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", init_method=store, rank=rank, world_size=count)
    settings = Settings(torch.device(device), 1, False)
    sampler = QueueSampler(queue).to(settings.device)
    restored, clear = feature_pair(rows, settings, seed=rank, dimension=dimension)

    def step() -> None:
        restored.grad = None
        share = share_of(count * rows) if shared else None
        sampler(gather_rows(restored), gather_rows(clear), share=share).backward()
        synchronise(settings.device)

    step()
    fill_queue(sampler)
    step()
    pipe.send((0.0, 0.0))
    try:
        while pipe.recv():
            dist.barrier()
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            pipe.send((time.perf_counter() - wall, time.process_time() - cpu))
    except EOFError:  # the measurement is over
        dist.destroy_process_group()
