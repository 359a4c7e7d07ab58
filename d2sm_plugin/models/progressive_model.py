"""Training of networks that grow in stages, against a discriminator that grows with them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor, nn

from d2sm_plugin.archs.interface import Growing, grows
from d2sm_plugin.blocks import Block
from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.gan_model import GANModel, GANObjectiveOptions, GANTrainOptions
from d2sm_plugin.registry import MODEL_REGISTRY, register


class Growth(Block):
    """``train.growth``: the stages of a network that grows."""

    ends: list[PositiveInt] = Field(description="last steps of all stages but the last one")
    fade: NonNegativeInt = Field(description="steps over which a new stage fades in")

    @field_validator("ends")
    @classmethod
    def _rising(cls, ends: list[int]) -> list[int]:
        if any(before >= after for before, after in pairwise(ends)):
            raise ValueError(f"steps must rise from stage to stage, got {ends}")
        return ends


class ProgressiveTrainOptions(GANTrainOptions):
    """``train`` of ProgressiveModel."""

    growth: Growth = Field(description="{ends: [50000, 100000], fade: 25000}: stages of a network that grows")


class PenalisedObjectiveOptions(GANObjectiveOptions):
    """Keys of ``train.gan_opt`` that :class:`ProgressiveModel` reads itself."""

    gradient_penalty: NonNegativeFloat = Field(0, description="weight of the gradient penalty of the discriminator")
    gradient_norm: NonNegativeFloat = Field(1, description="norm of the gradient that is not penalised")
    drift: NonNegativeFloat = Field(0, description="weight of the discriminator's squared output on real images")


@register(MODEL_REGISTRY)
class ProgressiveModel(GANModel):
    """:class:`GANModel` for networks that grow, such as PFSR (BMVC 2019), by default as a Wasserstein GAN is trained.

    ``train.growth`` is ``{ends: [50000, 100000], fade: 25000}``: the last steps of all stages but the last one, and
    over how many steps a new stage fades in (linear). Stage and fade follow from the number of the step alone, so a
    resumed run grows as one that never stopped. Objectives see ``gt`` reduced to the size of the stage's output, half
    by half (bilinear with antialiasing, as PIL does it).

    ``gan_opt`` may hold ``gradient_penalty``, the weight of ``(norm - gradient_norm)^2`` for the discriminator's
    gradient at images between real and restored ones (Gulrajani et al., NIPS 2017); ``gradient_norm``, 1 unless given;
    and ``drift``, the weight of its squared output on real images (Karras et al., ICLR 2018). Without ``gan_opt`` there
    is no discriminator.

    Args:
        opt: see :class:`GANModel`.
    """

    needs_discriminator = False
    train_options = ProgressiveTrainOptions
    train_block: ProgressiveTrainOptions
    gan_options = PenalisedObjectiveOptions

    def _start_training(self, objectives: Mapping[str, Mapping[str, Any]]) -> None:
        self.stage_ends, self.fade_iter = self.train_block.growth.ends, self.train_block.growth.fade
        super()._start_training(objectives)

    @classmethod
    def check_options(cls, options: Mapping[str, Any], network: nn.Module | None) -> None:
        """Refuse a network that does not grow, or grows in another number of stages."""
        super().check_options(options, network)
        if network is None:
            return
        if not grows(network):
            raise OptionError(f"network_g.type: {type(network).__name__} does not grow; ProgressiveModel trains PFSR")
        ends, stages = options["train"]["growth"]["ends"], network.num_stages
        if len(ends) != stages - 1:
            raise OptionError(f"train.growth.ends: expected {stages - 1} steps for {stages} stages, got {ends}")

    def _start_discriminator(self, block: Mapping[str, Any]) -> None:
        super()._start_discriminator(block)
        self.penalty = float(block.get("gradient_penalty", 0))
        self.penalty_norm = float(block.get("gradient_norm", 1))
        self.gan_objective = _WithDrift(self.gan_objective, float(block.get("drift", 0)))

    # ------------------------------------------------------------------------------------------------- training

    def growth_at(self, step: int) -> tuple[int, float]:
        """Return stage (from 1) and fade (0 to 1) of a training step (from 1)."""
        stage = 1 + sum(step > end for end in self.stage_ends)
        if stage == 1 or self.fade_iter == 0:
            return stage, 1.0
        return stage, min(1.0, (step - 1 - self.stage_ends[stage - 2]) / self.fade_iter)

    def before_step(self, current_iter: int) -> None:
        """Let all networks grow to where they are in this step."""
        super().before_step(current_iter)
        stage, fade = self.growth_at(current_iter)
        for network in (self.net_g, self.net_g_ema, self.net_d):
            if network is not None:
                cast(Growing, network).grow(stage, fade)  # they have been checked

    def compute_losses(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the objectives of :class:`GANModel` at the size of the stage, and ``d_penalty`` where there is one."""
        batch = {**batch, "gt": _reduce_to(batch["gt"], outputs["restored"].shape[-2])}
        losses = super().compute_losses(batch, outputs)
        if self.net_d is not None and self.penalty:
            fake, real = (images.detach() for images in self._judged({**batch, **outputs}))
            with self._judging():
                losses["d_penalty"] = self.penalty * self._gradient_penalty(self.net_d, fake, real)
        return losses

    def _gradient_penalty(self, net_d: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of ``(norm - penalty_norm)^2`` over images drawn between restored and real ones."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(fake, real, share).requires_grad_()
        with torch.autocast(self.device.type, enabled=False):
            # Not through DDP, which would wait for gradients that the penalty does not have; its own add to the others.
            judged = net_d(between).sum()
            (gradient,) = torch.autograd.grad(judged, between, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - self.penalty_norm).square().mean()


class _WithDrift(nn.Module):
    """A GAN objective whose discriminator is also held near zero on real images."""

    def __init__(self, objective: nn.Module, weight: float) -> None:
        super().__init__()
        self.objective, self.weight = objective, weight

    def forward(self, judged: Tensor, real: bool, is_disc: bool = False) -> Tensor:
        value = self.objective(judged, real, is_disc=is_disc)
        return value + self.weight * judged.square().mean() if is_disc and real and self.weight else value


def _reduce_to(images: Tensor, height: int) -> Tensor:
    while images.shape[-2] > height:
        images = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return images
