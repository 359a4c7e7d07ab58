"""The objectives of a training run: built from the ``*_opt`` blocks, named, summed, compared by gradient."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.errors import D2SMError, ForeignError, OptionError
from d2sm_plugin.losses.accumulation import accumulation_of
from d2sm_plugin.losses.d2sm_loss import D2SMLoss
from d2sm_plugin.losses.multi_layer_d2sm_loss import MultiLayerD2SMLoss
from d2sm_plugin.losses.relative_weight import RelativeWeight, unmeasured
from d2sm_plugin.losses.sampled_objective import SampledObjective
from d2sm_plugin.models.objective_weight import REFERENCE, ObjectiveWeight, class_arguments
from d2sm_plugin.registry import build
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES


def objective_name(key: str) -> str:
    """Return the name of the objective of an option block: its key without ``_opt``.

    Raises:
        OptionError: for a name that no part of a module can have.
    """
    name = key.removesuffix("_opt")
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise OptionError(f"train.{key}: no objective can be called '{name}', a name of torch's own; choose another")
    return name


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
            outputs its forward gets (see :func:`default_takes`); ``schedule``: pairs ``[step, factor]`` between which
            its weight changes (:class:`WeightSchedule`); ``every``: n, to compute it in every n-th step alone, with n
            times its weight; and ``loss_weight`` as a block ``{relative: 0.5}`` (:class:`RelativeWeight`), measured by
            the training steps before.

    Attributes:
        step: number of the training step, from 1, that schedules go by.
        weights: :class:`ObjectiveWeight` by name.
        may_rest: steps without any objective are no error, as the model has others.

    Raises:
        OptionError: when a block cannot be built; the message names the key.
    """

    def __init__(self, blocks: Mapping[str, Any]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict()
        self.takes: dict[str, tuple[str, ...]] = {}
        self.weights = nn.ModuleDict()
        self.step = 1
        self.may_rest = False
        self._said_unmeasured: set[str] = set()
        for key, block in blocks.items():
            if not key.endswith("_opt") or block is None:
                continue
            name, where = objective_name(key), f"train.{key}"
            try:
                term = build(LOSS_REGISTRY, class_arguments(block), where)
            except D2SMError as error:
                if str(error).startswith(where):
                    raise
                raise type(error)(f"{where}: {error}") from error
            self.terms[name] = term
            self.weights[name] = ObjectiveWeight(block, where)
            self.takes[name] = tuple(block.get("takes") or default_takes(term))

    def refuse_without_float64(self) -> None:
        """Refuse objectives that compute in float64, for a device that has none.

        Raises:
            OptionError: naming the first one.
        """
        for name, term in self.terms.items():
            parts = [*term.modules(), self.weights[name]]
            held = (buffer for part in parts for buffer in part.buffers())
            if any(isinstance(part, SampledObjective) for part in parts) or any(b.dtype == torch.float64 for b in held):
                raise OptionError(
                    f"train.{name}_opt: it computes in float64, which this device does not have; give --device cpu, or "
                    f"remove it"
                )

    def compile_extractors(self) -> None:
        """Let the extractors of D2SM and of other distances be compiled at their first call.

        Whole images, windows of mode ``crop`` and positions pass the compiled extractor; shared windows take parts of
        it, which stay as they are.
        """
        for term in self.terms.values():
            if isinstance(term, SampledObjective | MultiLayerD2SMLoss):
                term.compile_network()

    def begins(self) -> bool:
        """Tell whether this step is the first of an objective."""
        return any(weight.every == self.step for weight in self.weights.children())

    def describe_gradients(self, norms: Mapping[str, float]) -> tuple[dict[str, float], list[tuple[int, str]]]:
        """Compare the gradients of objectives, which is how their weights are chosen.

        Those that do nothing in their first step are pointed out.

        Args:
            norms: of the gradients at the network's output, by objective, without relative weights and their schedules.

        Returns:
            ``grad_norm/NAME`` and ``grad_ratio/NAME``, the latter to the pixel objective; and lines for the log with
            their levels.
        """
        pixel = REFERENCE if REFERENCE in norms else next(iter(norms), "")
        values: dict[str, float] = {}
        lines: list[tuple[int, str]] = []
        for name, norm in norms.items():
            weighted = norm * self._open_factor(name)
            ratio = weighted / norms[pixel] if norms[pixel] > 0 else math.inf
            values |= {f"grad_norm/{name}": weighted, f"grad_ratio/{name}": ratio}
            compared = f"{ratio:.3g} times that of {pixel}"
            unweighted = f", {norm:.3e} without its weight" if self._relative(name) is not None else ""
            lines.append(
                (logging.INFO, f"Gradient of {name}: norm {weighted:.3e} at the output{unweighted}, {compared}.")
            )
            nothing = norm == 0 or (ratio < _NOTHING and self._relative(name) is None)
            if self.step == self._every(name) and nothing and not self._is_filling(name):
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

    def to_measure(self) -> list[str]:
        """Return the objectives whose gradients relative weights need in this step, the reference first, by name."""
        weights = {name: self._relative(name) for name in self.weights}
        names = [name for name, weight in weights.items() if weight is not None and weight.measuring]
        return [REFERENCE, *names] if names else []

    def measure(self, norms: Mapping[str, float]) -> tuple[dict[str, float], list[tuple[int, str]]]:
        """Let relative weights take in a step that was made; they change from the next step on.

        Args:
            norms: of the gradients at the network's output, by objective, without relative weights and their schedules.

        Returns:
            ``weight/NAME`` as it was in that step; and lines for the log with their levels.
        """
        values = {
            f"weight/{name}": self._open_factor(name) for name in self.weights if self._relative(name) is not None
        }
        lines: list[tuple[int, str]] = []
        rests = self._every(REFERENCE)  # its weight is so many times larger in this step
        for name in self.to_measure()[1:]:
            weight, term = self._relative(name), dict(self.terms).get(name)
            if weight is None or name not in norms or REFERENCE not in norms:
                continue
            measured = weight.add(norms[name], norms[REFERENCE] / rests, settled=not getattr(term, "filling", False))
            if not measured and name not in self._said_unmeasured and not self._is_filling(name):
                self._said_unmeasured.add(name)
                because = unmeasured({compared: norms[compared] for compared in (name, REFERENCE)})
                lines.append((logging.WARNING, f"train.{name}_opt.loss_weight: {because}; such steps are not counted"))
            if measured and not weight.measuring:
                reached = f"{weight.relative:g} times that of {REFERENCE} over {weight.steps} steps"
                lines.append((logging.INFO, f"Weight of {name}: {weight.value:.4g} from here on; gradient {reached}."))
        return values, lines

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return losses with the factors that :meth:`forward` leaves out: relative weights and their schedules."""
        factors = {name: self._open_factor(name) for name in losses}
        return {name: loss if factors[name] == 1 else factors[name] * loss for name, loss in losses.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take back a state; weights may have become relative since, or be so no more."""
        fresh = {key: value for key, value in self.state_dict().items() if key.startswith("weights.")}
        known = {k: v for k, v in state_dict.items() if k in fresh or not k.startswith("weights.")}
        return super().load_state_dict({**fresh, **known}, *args, **kwargs)

    def _weight(self, name: str) -> ObjectiveWeight | None:
        weight = dict(self.weights).get(name)
        return weight if isinstance(weight, ObjectiveWeight) else None

    def _relative(self, name: str) -> RelativeWeight | None:
        weight = self._weight(name)
        return None if weight is None else weight.relative

    def _every(self, name: str) -> int:
        weight = self._weight(name)
        return 1 if weight is None else weight.every

    def _open_factor(self, name: str) -> float:
        weight = self._weight(name)
        return 1.0 if weight is None or weight.relative is None else weight.at(self.step)

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
        """Return each objective's weighted value, by name; those with the factor 0 are left out, at no cost.

        Values of objectives with relative weights come without weight and schedule, see :meth:`weighted`.

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
            weight = self._weight(name)
            factor = 1.0 if weight is None else weight.scheduled(self.step)
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
            losses[name] = value if factor == 1 or self._relative(name) is not None else factor * value
        if not losses and self.terms and not self.may_rest:
            raise OptionError(
                f"train: at step {self.step} the schedule of every objective ({', '.join(self.terms)}) gives 0, or its "
                f"'every' lets it rest; leave one without both"
            )
        return losses


def _scalar(value: object, where: str) -> Tensor:
    if isinstance(value, tuple):  # BasicSR's PerceptualLoss: (perceptual, style), either may be None
        value = sum(part for part in value if part is not None)
    if not isinstance(value, Tensor) or value.numel() != 1:
        kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ForeignError(f"{where} returned {kind}; an objective returns a scalar tensor")
    return value.reshape(())
