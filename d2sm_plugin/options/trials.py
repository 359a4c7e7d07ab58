"""Builds, before anything starts, what an option file describes and what costs nothing to build.

Networks are made on the meta device, where tensors have shapes and no values. Objectives look through a stand-in
instead of an extractor. What reads files is not tried; it is built before a run makes its folder.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from d2sm_plugin.archs.interface import bounded_parts
from d2sm_plugin.errors import D2SMError, OptionError
from d2sm_plugin.models.optimisation import build_optimiser, build_scheduler
from d2sm_plugin.options.host_arguments import is_of_host
from d2sm_plugin.options.signatures import signature_of
from d2sm_plugin.registry import ARCH_REGISTRY, LOSS_REGISTRY, lookup
from d2sm_plugin.weights import tensor_state

_STEPPED = 2000  # steps of a schedule that are tried one by one; of longer ones the end is tried


class StandIn(nn.Module):
    """Substitute for an extractor or objective that is not tried."""

    def feature_map(self, images: Tensor) -> Tensor:
        """Never called."""
        raise NotImplementedError

    feature_maps = feature_map


def try_network(block: Mapping[str, Any], where: str) -> nn.Module | None:
    """Make the network that a block describes, without values.

    Returns:
        The network on the meta device, or on the CPU if it cannot be made there; None where it needs a file.

    Raises:
        OptionError: when its class refuses the arguments, or its state cannot be saved.
    """
    network = _tried_network(block, where)
    if network is not None:
        try:
            tensor_state(network)
        except OptionError as error:
            raise _placed(error, where) from error
    return network


def _tried_network(block: Mapping[str, Any], where: str) -> nn.Module | None:
    target = lookup(ARCH_REGISTRY, block["type"], f"{where}.type")
    arguments = {key: value for key, value in block.items() if key != "type"}
    for name, argument in signature_of(target).arguments.items():
        if argument.is_file and argument.required:
            return None
        if argument.is_file:
            arguments[name] = None
    with _quietly(), bounded_parts(where):
        try:
            with torch.device("meta"):
                return target(**arguments)
        except D2SMError as error:
            raise _placed(error, where) from error
        except Exception:  # noqa: BLE001  # it may be that it reads a value while it is built
            return _made(target, arguments, where)


def try_objective(block: Mapping[str, Any], where: str) -> nn.Module | None:
    """Make the objective that a block describes, with a stand-in for what it looks through.

    Returns:
        The objective; None for one that reads files, or is neither ours nor BasicSR's.

    Raises:
        OptionError: when its class refuses the arguments.
        DependencyError: without a package that it needs.
    """
    target = lookup(LOSS_REGISTRY, block["type"], f"{where}.type")
    known = signature_of(target).arguments
    arguments = {key: value for key, value in block.items() if key in known}
    reads = [
        name
        for name, argument in known.items()
        if argument.is_file and arguments.get(name, argument.default) is not None
    ]
    is_ours = target.__module__.split(".")[0] == __name__.split(".", maxsplit=1)[0]
    if reads or (is_of_host(target) and "vgg_type" in known) or not (is_ours or is_of_host(target)):
        return None
    for name, mark in ((name, argument.block) for name, argument in known.items() if argument.block is not None):
        if mark.registry is not LOSS_REGISTRY:
            arguments[name] = StandIn()
        elif isinstance(arguments.get(name), Mapping):
            made = try_objective(arguments[name], f"{where}.{name}")
            arguments[name] = StandIn() if made is None else made  # an empty queue is false
    with _quietly(), bounded_parts(where):
        return _made(target, arguments, where)


def try_optimisation(train: Mapping[str, Any]) -> None:
    """Build optimisers and schedules of ``train``, and take their steps with a parameter of no meaning.

    Raises:
        OptionError: when they refuse their arguments, cannot step, or the schedule ends before the training does.
    """
    for key in ("optim_g", "optim_d"):
        if train.get(key) is None:
            continue
        parameter = nn.Parameter(torch.zeros(2, 2, 3, 3))
        parameter.grad = torch.zeros_like(parameter)
        optimiser = build_optimiser(train[key], [parameter], f"train.{key}")
        if not any(float(group["lr"]) for group in optimiser.param_groups):
            raise OptionError(f"train.{key}.lr: with 0 nothing is trained; expected a number above 0")
        with _quietly():
            try:
                optimiser.step()
            except Exception as error:
                raise OptionError(
                    f"train.{key}.type: {train[key]['type']} cannot train a network here ({_reason(error)}); Adam, "
                    f"AdamW and SGD can"
                ) from error
            if train["scheduler"] is not None:
                _try_schedule(train["scheduler"], optimiser, train["total_iter"])


def _try_schedule(block: Mapping[str, Any], optimiser: torch.optim.Optimizer, total_iter: int) -> None:
    where = "train.scheduler"
    scheduler = build_scheduler(block, optimiser, where)
    steps = total_iter - 1  # before the first step of the training it makes none
    before = [1.0]
    for step in [*range(1, min(steps, _STEPPED) + 1), steps]:
        if step <= scheduler.last_epoch:
            continue
        scheduler.last_epoch = step - 1
        try:
            scheduler.step()
        except Exception as error:
            raise OptionError(
                f"{where}: {block['type']} ends before train.total_iter {total_iter:,}, at step {step + 1:,} "
                f"({_reason(error)}); make it as long as the training"
            ) from error
        rates = [float(group["lr"]) for group in optimiser.param_groups]
        if not all(0 <= rate < math.inf for rate in rates):
            raise OptionError(f"{where}: {block['type']} makes the learning rate {rates[0]:g} at step {step + 1:,}")
        if not any(rates) and not any(before):
            raise OptionError(
                f"{where}: {block['type']} makes the learning rate 0 from step {step:,} on, and train.total_iter is "
                f"{total_iter:,}; make it as long as the training"
            )
        before = rates
    if isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max < steps:
        raise OptionError(
            f"{where}.T_max: after {scheduler.T_max:,} steps the learning rate rises again, and train.total_iter is "
            f"{total_iter:,}; make it as long as the training, or set CosineAnnealingWarmRestarts for restarts"
        )


def _made(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> Any:
    try:
        return target(**arguments)
    except D2SMError as error:
        raise _placed(error, where) from error
    except Exception as error:
        raise OptionError(f"{where}: {target.__name__} refuses these values ({_reason(error)})") from error


def _placed(error: D2SMError, where: str) -> D2SMError:
    return error if str(error).startswith(where) else type(error)(f"{where}: {error}")


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


@contextmanager
def _quietly() -> Iterator[None]:
    """Context without warnings, which leaves the random generator as it was."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
