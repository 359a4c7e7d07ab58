"""Keeping inf and NaN out of weights: what is checked after each backward pass and before each checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from logging import Logger
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from d2sm_plugin.errors import TrainingError
from d2sm_plugin.models.optimisation import parameters_of
from d2sm_plugin.models.step_record import StepRecord

_SHOWN = 4  # names in a message
_OVERFLOW = "gradient beyond float16"
Networks = Mapping[str, Mapping[str, nn.Module]]  # label -> key -> network


class StepGuard:
    """Guard that lets a step through only if losses and gradients are finite on every rank, and counts the rest.

    Args:
        networks: as they are built; tensors that hold inf from the start, such as masks of attention, may keep it.
        scaler: of float16 gradients, for which overflow is no failure: it lowers its scale until they fit.
        limit: so many steps in a row that are left out end the training.
        distributed: ask the other ranks too.
        logger: hears of every step that is left out.

    Attributes:
        in_a_row: steps left out since the last one that was made.
        total: steps left out in the whole run.
    """

    def __init__(
        self, networks: Networks, scaler: torch.amp.GradScaler, limit: int, distributed: bool, logger: Logger
    ) -> None:
        self.scaler, self.limit, self.distributed, self.logger = scaler, limit, distributed, logger
        self.unbounded = set(_nonfinite_tensors(networks))
        self.in_a_row = self.total = 0

    def objection(self, record: StepRecord, networks: Networks, optimizers: Sequence[Optimizer]) -> str | None:
        """Return why the optimisers must not step; None when they may. The one place where a step waits for the device.

        Gradients that are too large for float16 lower the scale of the loss, if it can be lowered.
        """
        gradients = [p.grad for optimizer in optimizers for p in parameters_of(optimizer) if p.grad is not None]
        loss_is_finite = record.all_finite()
        gradient_is_finite = torch.isfinite(get_total_norm(gradients)).to(loss_is_finite.device)
        bad = (~torch.stack([loss_is_finite, gradient_is_finite])).to(torch.int32)
        if self.distributed:
            torch.distributed.all_reduce(bad, op=torch.distributed.ReduceOp.MAX)
        bad_loss, bad_gradient = bad.tolist()
        if bad_loss:
            return f"loss not finite in {record.nonfinite_losses()}"
        if not bad_gradient:
            self.in_a_row = 0
            return None
        if self.scaler.is_enabled() and self.scaler.get_scale() > 1:
            for optimizer in optimizers:
                self.scaler.unscale_(optimizer)  # notes what is not finite, for the scaler
            self.scaler.update()
            return _OVERFLOW
        return _bad_gradient(record, networks)

    def leave_out(self, objection: str, damage: str | None) -> None:
        """Count a step that is not made, and say why.

        Args:
            objection: what :meth:`objection` returned.
            damage: what :meth:`damage` returns, now that the step is undone.

        Raises:
            TrainingError: for ``limit`` steps in a row, and at once where weights are spoilt already.
        """
        if objection is _OVERFLOW:
            self.logger.info(f"Step skipped: {objection}; the loss is now scaled by {self.scaler.get_scale():g}.")
            return
        self.in_a_row += 1
        self.total += 1
        if damage is not None:
            raise TrainingError(f"{damage}, {objection}; lower the learning rate, or set train.grad_clip")
        if self.in_a_row >= self.limit:
            count, self.in_a_row = self.in_a_row, 0  # anew, for a training that goes on from here with other options
            raise TrainingError(
                f"{count} steps in a row were left out (train.max_nonfinite_steps), the last one because of {objection}"
                f"; lower the learning rate or the objective's loss_weight, set grad_clip, or use bf16 instead of fp16"
            )
        self.logger.warning(f"Step skipped, number {self.in_a_row} in a row: {objection}")

    def damage(self, networks: Networks, optimizers: Sequence[Optimizer]) -> str | None:
        """Return which network or optimiser's state holds inf or NaN, for a message; None for none.

        Waits for the device.
        """
        names = [" ".join(name) for name in _nonfinite_tensors(networks) if name not in self.unbounded]
        if names:
            return f"there is inf or NaN in the weights ({_listed(names)})"
        for optimizer in optimizers:
            for state in optimizer.state.values():
                if names := nonfinite_names(state):
                    return f"there is inf or NaN in the state of {type(optimizer).__name__} ({_listed(names)})"
        return None


class KeptBuffers:
    """Buffers of networks, such as running means and their counters, as they were before a step.

    A forward pass changes them; a step that is left out must not. They are put back when the context ends, unless
    ``changed`` says that the step is to be made.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.changed = False
        self._buffers = [buffer for network in networks for buffer in network.buffers()]
        self._before = [buffer.clone() for buffer in self._buffers]

    def __enter__(self) -> KeptBuffers:
        return self

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        if not self.changed:
            for buffer, before in zip(self._buffers, self._before, strict=True):
                buffer.copy_(before)


def nonfinite_names(state: Mapping[str, Any]) -> list[str]:
    """Return the names of floating point tensors that hold inf or NaN (waits once for each device that they are on).

    Args:
        state: of a network or of one parameter in an optimiser; what is no tensor, such as extra state, is left out.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_device.setdefault(tensor.device, []).append(name)
    bad = []
    for names in by_device.values():  # Adam counts its steps on the CPU
        finite = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
        bad += [name for name, sound in zip(names, finite, strict=True) if not sound]
    return bad


def _nonfinite_tensors(networks: Networks) -> Iterator[tuple[str, str, str]]:
    for label, wrapped in networks.items():
        for key, network in wrapped.items():
            yield from ((label, key, name) for name in nonfinite_names(network.state_dict()))


def _bad_gradient(record: StepRecord, networks: Networks) -> str:
    named = [pair for wrapped in networks.values() for pair in wrapped["params"].named_parameters()]
    names = [name for name, p in named if p.grad is not None and not p.grad.isfinite().all()]
    guilty = [name for name, norm in record.gradient_norms().items() if not math.isfinite(norm)]
    of = f" of {', '.join(guilty)}" if guilty else ""
    return f"gradient{of} not finite in {_listed(names) if names else 'its norm'} on {record.sample_list()}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
