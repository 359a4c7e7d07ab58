"""Optimisers, schedules and moving averages, by name from option blocks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from basicsr.models import lr_scheduler as host_schedulers
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from d2sm_plugin.errors import OptionError, suggest

#: Schedulers that no option file can describe, as they take functions, other schedulers or measured values.
_NEED_OBJECTS = frozenset(
    {"LRScheduler", "_LRScheduler", "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler",
     "ReduceLROnPlateau"}
)  # fmt: skip


def optimiser_class(name: str, where: str) -> type[torch.optim.Optimizer]:
    """Return the class of ``torch.optim`` that ``name`` names; unknown names are an :class:`OptionError`."""
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and value is not torch.optim.Optimizer
    }
    if name not in known:
        raise OptionError(f"{where}.type: torch.optim has no '{name}'{suggest(name, known)}")
    return known[name]


def scheduler_class(name: str, where: str) -> type:
    """Return the scheduler that ``name`` names: BasicSR's where it has one, else torch's."""
    known: dict[str, type] = {
        key: value
        for key, value in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, LRScheduler) and key not in _NEED_OBJECTS
    }
    known |= {key: value for key, value in vars(host_schedulers).items() if key.endswith("LR")}
    known["MultiStepLR"] = host_schedulers.MultiStepRestartLR  # as BasicSR's own training does
    if name not in known:
        raise OptionError(f"{where}.type: no scheduler '{name}'{suggest(name, known)}")
    return known[name]


def build_optimiser(block: Mapping[str, Any], parameters: Iterable[nn.Parameter], where: str) -> Optimizer:
    """Build the optimiser that ``{"type": NAME, "lr": ..., ...}`` describes, for the parameters that want gradients.

    Raises:
        OptionError: when the class is unknown or refuses its arguments.
    """
    cls = optimiser_class(block["type"], where)
    arguments = {key: value for key, value in block.items() if key != "type"}
    try:
        return cls([p for p in parameters if p.requires_grad], **arguments)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{where}: {block['type']} refuses these values: {error}") from error


def parameters_of(optimiser: Optimizer) -> list[nn.Parameter]:
    """Return every parameter that an optimiser changes."""
    return [parameter for group in optimiser.param_groups for parameter in group["params"]]


def build_scheduler(block: Mapping[str, Any], optimiser: Optimizer, where: str = "train.scheduler") -> Any:
    """Build the schedule that ``{"type": NAME, ...}`` describes; ``MultiStepLR`` is BasicSR's, as in its training.

    Raises:
        OptionError: when the class is unknown or refuses its arguments.
    """
    cls = scheduler_class(block["type"], where)
    arguments = {key: value for key, value in block.items() if key != "type"}
    try:
        return cls(optimiser, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise OptionError(f"{where}: {block['type']} refuses these values: {error}") from error


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the exponential moving average of a network's weights by one step; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1.0 - decay)
    for ours, theirs in zip(average.buffers(), current.buffers(), strict=True):
        ours.copy_(theirs)
