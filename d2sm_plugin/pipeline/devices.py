"""Devices that a run computes on."""

from __future__ import annotations

from argparse import ArgumentTypeError

import torch

from d2sm_plugin.arguments import device as usable_device
from d2sm_plugin.errors import OptionError

#: Kinds of devices whose processes can talk to each other here.
_OF_MANY_PROCESSES = ("cpu", "cuda")


def choose_device(num_gpu: int | str, device: str | None, local_rank: int | None) -> str:
    """Return the kind of device that a process computes on, and make the right one of its kind the current one.

    Args:
        num_gpu: the option: 0 for the CPU, ``"auto"`` for a GPU of CUDA where there is one, or a number.
        device: ``--device``: ``cpu``, ``cuda``, ``cuda:1``, ``xpu`` or ``mps``; ``auto`` is ``num_gpu: auto``, None is
            what ``num_gpu`` says.
        local_rank: number of the process on its machine; None where it is alone.

    Returns:
        ``"cpu"``, ``"cuda"``, ``"xpu"`` or ``"mps"``.

    Raises:
        OptionError: when the device is not there, or cannot serve one of many processes.
    """
    if device not in (None, "auto"):
        return _named(str(device), local_rank)
    num_gpu = "auto" if device == "auto" else num_gpu
    available = torch.cuda.device_count()
    if num_gpu != "auto" and int(num_gpu) > available:
        raise OptionError(f"num_gpu: {num_gpu} asked for, {available} found; set 0 for CPU or auto")
    if not available or num_gpu == 0:
        return "cpu"
    if local_rank is not None:
        torch.cuda.set_device(local_rank % available)
    elif num_gpu != "auto" and int(num_gpu) > 1:
        raise OptionError(
            f"num_gpu: {num_gpu} GPUs need one process each: torchrun --nproc_per_node={num_gpu} -m d2sm_plugin "
            "train -opt ... --launcher pytorch"
        )
    return "cuda"


def _named(device: str, local_rank: int | None) -> str:
    kind, _, number = device.partition(":")
    if local_rank is not None:
        if number or kind not in _OF_MANY_PROCESSES:
            raise OptionError(
                f"--device {device}: of many processes each takes the GPU of its own number; give cuda or cpu alone"
            )
        if kind == "cuda" and torch.cuda.device_count():
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
            return kind
    try:
        usable_device(device)
    except ArgumentTypeError as error:
        raise OptionError(f"--device: {error}") from None
    if number and kind in ("cuda", "xpu"):
        getattr(torch, kind).set_device(int(number))
    return kind
