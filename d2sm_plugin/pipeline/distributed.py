"""Processes of a run, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from d2sm_plugin.errors import D2SMError, OptionError, OtherRankError


def start_processes(launcher: str, num_gpu: int | str) -> dict[str, Any]:
    """Join the process group that ``torchrun`` describes in the environment, and choose the device count.

    Args:
        launcher: ``"none"`` for one process, ``"pytorch"`` under ``torchrun``.
        num_gpu: the option: 0 for CPU, ``"auto"`` for a GPU where there is one, or a number.

    Returns:
        ``dist``, ``rank``, ``world_size``, ``local_rank`` and ``num_gpu`` (GPUs of this process: 0 or 1).

    Raises:
        OptionError: when ``torchrun``'s variables are missing, or a GPU is asked for where there is none.
    """
    available = torch.cuda.device_count()
    if num_gpu != "auto" and int(num_gpu) > available:
        raise OptionError(f"num_gpu: {num_gpu} asked for, {available} found; set 0 for CPU or auto")
    uses_gpu = available > 0 and num_gpu != 0
    if launcher == "none":
        if num_gpu != "auto" and int(num_gpu) > 1:
            raise OptionError(
                f"num_gpu: {num_gpu} GPUs need one process each: torchrun --nproc_per_node={num_gpu} -m d2sm_plugin "
                "train -opt ... --launcher pytorch"
            )
        return {"dist": False, "rank": 0, "world_size": 1, "local_rank": 0, "num_gpu": int(uses_gpu)}
    missing = [
        name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise OptionError(
            f"--launcher pytorch: {', '.join(missing)} not set; start with "
            "torchrun --nproc_per_node=N -m d2sm_plugin train ..."
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    if uses_gpu:
        torch.cuda.set_device(local_rank % available)
    dist.init_process_group("nccl" if uses_gpu else "gloo")
    return {
        "dist": True,
        "rank": dist.get_rank(),
        "world_size": dist.get_world_size(),
        "local_rank": local_rank,
        "num_gpu": int(uses_gpu),
    }


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
