"""Optimisers, schedules and moving averages, by name from option blocks."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping, Sequence
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
    except Exception as error:  # torch has no one kind for it
        reason = " ".join(str(error).split())
        raise OptionError(f"{where}: {block['type']} refuses these values: {reason}") from error


def takes_state_of(block: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether an option block's optimiser can go on with the state of another's, which is tried with one number.

    Betas and weight decay may change; ``amsgrad``, for example, wants something that the state does not have.
    """
    number = nn.Parameter(torch.ones(1))
    optimisers = [build_optimiser(settings, [number], "train") for settings in (other, block)]
    try:
        number.grad = torch.ones(1)
        optimisers[0].step()
        groups = optimisers[1].state_dict()["param_groups"]
        optimisers[1].load_state_dict({"state": optimisers[0].state_dict()["state"], "param_groups": groups})
        optimisers[1].step()
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError):
        return False
    return True


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
    except Exception as error:  # torch has no one kind for it
        reason = " ".join(str(error).split())
        raise OptionError(f"{where}: {block['type']} refuses these values: {reason}") from error


def step_schedule(optimisers: Sequence[Optimizer], schedulers: Sequence[Any], step: int, warmup_iter: int) -> None:
    """Set the learning rate for a step: the schedule's, or in the warm-up a share of the initial one.

    BasicSR's own leaves schedules that multiply the last value, such as MultiStepLR, at the warm-up's for ever, and
    needs a schedule to warm up.

    Args:
        optimisers: whose learning rates are set.
        schedulers: one for each of them, or none.
        step: its number, from 1.
        warmup_iter: first step with the whole learning rate; -1 for no warm-up.
    """
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    for group in groups:
        group["lr"] = group.pop("scheduled_lr", group["lr"])
    if step > 1:
        for scheduler in schedulers:
            scheduler.step()
    if step < warmup_iter:
        for group in groups:
            group["scheduled_lr"] = group["lr"]
            group["lr"] = group.setdefault("initial_lr", group["lr"]) / warmup_iter * step


def load_optimisation(
    optimisers: Sequence[Optimizer], schedulers: Sequence[Any], state: Mapping[str, Any], new_warmup: int | None
) -> None:
    """Load the states of optimisers and schedules.

    Args:
        optimisers: as built from the options.
        schedulers: likewise.
        state: ``optimizers``, ``schedulers`` and the step, ``iter``, that they were taken at.
        new_warmup: None takes everything from the state. A number of warm-up steps says that the options have changed:
            learning rates and all else that optimisers are told come from these, as if they had been so from the first
            step, and only what the optimisers remember of gradients comes from the state.
    """
    if new_warmup is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch misses the steps of the optimisers
            for step in range(1, state["iter"] + 1):
                step_schedule(optimisers, schedulers, step, new_warmup)
    for optimiser, saved in zip(optimisers, state["optimizers"], strict=True):
        told = saved["param_groups"] if new_warmup is None else optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({**saved, "param_groups": told})
    if new_warmup is None:
        for scheduler, saved in zip(schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the exponential moving average of a network's weights by one step; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1.0 - decay)
    for averaged, newest in zip(average.buffers(), current.buffers(), strict=True):
        averaged.copy_(newest)
