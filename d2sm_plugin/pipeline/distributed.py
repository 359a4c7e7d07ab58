"""Processes of a run, as ``torchrun`` or Slurm starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from d2sm_plugin.errors import D2SMError, OtherRankError
from d2sm_plugin.pipeline.devices import choose_device


def start_processes(launcher: str, num_gpu: int | str, device: str | None = None) -> dict[str, Any]:
    """Join the process group that the environment describes, and choose the device.

    Args:
        launcher: ``"none"`` for one process; else :func:`~d2sm_plugin.pipeline.launchers.enter_launcher` has seen that
            torchrun's variables are set.
        num_gpu: the option, see :func:`~d2sm_plugin.pipeline.devices.choose_device`.
        device: ``--device``; None for what ``num_gpu`` says.

    Returns:
        ``dist``, ``rank``, ``world_size``, ``local_rank``, ``device`` (its kind) and ``num_gpu`` (CUDA's GPUs of this
        process: 0 or 1).

    Raises:
        OptionError: when the device is not there.
    """
    if launcher == "none":
        kind = choose_device(num_gpu, device, None)
        processes = {"dist": False, "rank": 0, "world_size": 1, "local_rank": 0}
        return processes | {"device": kind, "num_gpu": int(kind == "cuda")}
    local_rank = int(os.environ["LOCAL_RANK"])
    kind = choose_device(num_gpu, device, local_rank)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    processes = {"dist": True, "rank": dist.get_rank(), "world_size": dist.get_world_size(), "local_rank": local_rank}
    return processes | {"device": kind, "num_gpu": int(kind == "cuda")}


def stop_processes() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) for a single process."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def on_any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Return, for each flag, whether it is set on any rank; ranks that must act alike ask for it, all of them."""
    if world()[1] == 1:
        return list(flags)
    joint = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(joint, op=dist.ReduceOp.MAX)
    return joint.bool().tolist()


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all ranks in rank order, on every rank."""
    size = world()[1]
    if size == 1:
        return [value]
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, value)
    return gathered


def on_first_rank(action: Callable[[], None]) -> None:
    """Do something on the first rank while the others wait for it.

    Raises:
        D2SMError: what it raises there; the other ranks raise an OtherRankError then.
    """
    failure: D2SMError | None = None
    if world()[0] == 0:
        try:
            action()
        except D2SMError as error:
            failure = error
    failed = gather_objects(failure is not None)[0]
    if failure is not None:
        raise failure
    if failed:
        raise OtherRankError("the first process cannot go on")


def wait_for_all() -> None:
    """Wait until every rank is here."""
    if world()[1] > 1:
        dist.barrier()
