"""The objectives of a training run: built from the ``*_opt`` blocks, named, summed, compared by gradient."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import Field
from torch import Tensor, nn

from d2sm_plugin.blocks import Block
from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.errors import D2SMError, ForeignError, OptionError
from d2sm_plugin.losses.accumulation import accumulation_of
from d2sm_plugin.losses.d2sm_loss import D2SMLoss
from d2sm_plugin.models.weight_schedule import WeightSchedule
from d2sm_plugin.registry import build
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES


class ObjectiveOptions(Block):
    """Keys of an objective's block that the model reads itself."""

    takes: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="batch entries and network outputs that its forward gets, e.g. [restored, gt]"
    )
    schedule: list[Any] | None = Field(None, description="pairs [step, factor] between which its weight changes")


_KEYWORD, _KEYWORDS = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD


def default_takes(objective: nn.Module) -> tuple[str, ...]:
    """Return what an objective's forward gets where its option block does not say it.

    That is its attribute ``takes``, or else the restored image and, if there is a second argument other than BasicSR's
    ``weight``, the clear one.
    """
    declared: Sequence[str] | None = getattr(objective, "takes", None)
    if declared is not None:
        return tuple(declared)
    parameters = list(inspect.signature(objective.forward).parameters.values())
    second = parameters[1:2] or [parameter for parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL]
    alone = not second or second[0].name == "weight" or second[0].kind in (_KEYWORD, _KEYWORDS)
    return ("restored",) if alone else ("restored", "gt")


_NOTHING = 1e-6  # times the pixel objective's gradient: lost in its rounding


class Objectives(nn.Module):
    """Every objective of ``train:``, in the order of the option file.

    Args:
        blocks: the ``train`` block; each key that ends in ``_opt`` and is not empty is one objective. Besides the
            arguments of its class, an objective's block may hold ``takes``: the names of the batch entries and network
            outputs its forward gets (see :func:`default_takes`); and ``schedule``: pairs ``[step, factor]`` between
            which its weight changes (:class:`WeightSchedule`).

    Attributes:
        step: number of the training step, from 1, that schedules go by.

    Raises:
        OptionError: when a block cannot be built; the message names the key.
    """

    def __init__(self, blocks: Mapping[str, Any]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.takes: dict[str, tuple[str, ...]] = {}
        self.schedules: dict[str, WeightSchedule] = {}
        self.step = 1
        for key, block in blocks.items():
            if not key.endswith("_opt") or block is None:
                continue
            name, where = key.removesuffix("_opt"), f"train.{key}"
            arguments = {k: v for k, v in block.items() if k not in ObjectiveOptions.model_fields}
            try:
                term = build(LOSS_REGISTRY, arguments, where)
            except D2SMError as error:
                if str(error).startswith(where):
                    raise
                raise type(error)(f"{where}: {error}") from error
            self.terms[name] = term
            if block.get("schedule") is not None:
                self.schedules[name] = WeightSchedule(block["schedule"], f"{where}.schedule")
            self.takes[name] = tuple(block.get("takes") or default_takes(term))

    def compile_extractors(self) -> None:
        """Let the extractors of D2SM objectives be compiled at their first call.

        Whole images and windows of mode ``crop`` pass the compiled extractor; shared windows and positions take parts
        of it, which stay as they are.
        """
        for term in self.terms.values():
            if isinstance(term, D2SMLoss):
                term.extractor.compile()

    def describe_gradients(
        self, norms: Mapping[str, float], first: bool
    ) -> tuple[dict[str, float], list[tuple[int, str]]]:
        """Compare the gradients of objectives, which is how their weights are chosen.

        Args:
            norms: of the gradients at the network's output, by objective.
            first: point out objectives that do nothing.

        Returns:
            ``grad_norm/NAME`` and ``grad_ratio/NAME``, the latter to the pixel objective; and lines for the log with
            their levels.
        """
        pixel = "pixel" if "pixel" in norms else next(iter(norms), "")
        values: dict[str, float] = {}
        lines: list[tuple[int, str]] = []
        for name, norm in norms.items():
            ratio = norm / norms[pixel] if norms[pixel] > 0 else math.inf
            values |= {f"grad_norm/{name}": norm, f"grad_ratio/{name}": ratio}
            compared = f"{ratio:.3g} times that of {pixel}"
            lines.append((logging.INFO, f"Gradient of {name}: norm {norm:.3e} at the output, {compared}."))
            if first and (norm == 0 or ratio < _NOTHING) and not self._is_filling(name):
                advice = (
                    "raise its loss_weight, or see that it compares three samples at least and that its features "
                    "differ between images (an extractor without weights?)"
                )
                lines.append((logging.WARNING, f"train.{name}_opt does nothing, its gradient is {compared}: {advice}"))
        return values, lines

    def _is_filling(self, name: str) -> bool:
        """Tell whether the queue of an objective holds too few samples yet to compare with."""
        term = dict(self.terms).get(name)
        return isinstance(term, D2SMLoss) and term.queue is not None and len(term.queue) < LEAST_SAMPLES

    def accumulation(self, name: str) -> str:
        """Return how an objective's values of mini-batches make one, see :func:`accumulation_of`."""
        return accumulation_of(dict(self.terms).get(name))

    def shared(self, losses: Mapping[str, Tensor], mini_batches: int, processes: int) -> dict[str, Tensor]:
        """Return losses with the factors that make a step the same however its batch is shared out.

        Means are divided by the number of mini-batches; sums are not. DistributedDataParallel averages gradients over
        processes, so sums are multiplied by their number, but for objectives that look at the joint batch themselves
        (attribute ``joint``).

        Args:
            losses: of one mini-batch, by objective.
            mini_batches: of the step.
            processes: that train together.
        """
        weighted = {}
        for name, loss in losses.items():
            if self.accumulation(name) == "mean":
                factor = 1 / mini_batches
            else:
                factor = 1.0 if getattr(self.terms[name], "joint", False) else float(processes)
            weighted[name] = loss if factor == 1 else factor * loss
        return weighted

    def forward(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each objective's weighted value, by name; those whose schedule says 0 are left out, at no cost.

        Args:
            batch: what the dataset gave.
            outputs: what the network returned, by name; they come before batch entries of the same name.

        Raises:
            OptionError: when an objective takes what neither the dataset nor the network gives, or when schedules leave
                no objective at this step.
        """
        entries = {**batch, **outputs}
        losses: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            factor = self.schedules[name].at(self.step) if name in self.schedules else 1.0
            if factor == 0:
                continue
            missing = [entry for entry in self.takes[name] if entry not in entries]
            if missing:
                raise OptionError(
                    f"train.{name}_opt: the objective takes {', '.join(self.takes[name])}, but neither the dataset nor "
                    f"the network gives {', '.join(missing)} (given: {', '.join(sorted(entries))})"
                )
            where = f"train.{name}_opt: {type(term).__name__}"
            with foreign_code(where):
                value = term(*(entries[entry] for entry in self.takes[name]))
            value = _scalar(value, where)
            losses[name] = value if factor == 1 else factor * value
        if not losses and self.terms:
            raise OptionError(
                f"train: at step {self.step} the schedule of every objective ({', '.join(self.terms)}) gives 0; leave "
                f"one without a schedule"
            )
        return losses


def _scalar(value: object, where: str) -> Tensor:
    if isinstance(value, tuple):  # BasicSR's PerceptualLoss: (perceptual, style), either may be None
        value = sum(part for part in value if part is not None)
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ForeignError(f"{where} returned {kind}; an objective returns a scalar tensor")
    return value.reshape(())


def gradient_norms(losses: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the L2 norm of each objective's gradient with respect to the network's outputs, by name.

    The graph stays usable, so that the training step can go on with the same losses.
    """
    leaves = [tensor for tensor in outputs.values() if tensor.requires_grad]
    norms = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            norms[name] = loss.new_zeros(())
            continue
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        squares = [g.float().square().sum() for g in gradients if g is not None]
        norms[name] = torch.stack(squares).sum().sqrt() if squares else loss.new_zeros(())
    return norms
