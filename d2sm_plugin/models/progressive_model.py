"""Trains networks that grow in stages, against a discriminator that grows with them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.gan_model import GANModel
from d2sm_plugin.registry import MODEL_REGISTRY, register

_EXAMPLE = "for example {ends: [50000, 100000], fade: 25000}"


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

    Raises:
        OptionError: when ``growth`` is missing, does not fit the network, or the network does not grow.
    """

    needs_discriminator = False
    gan_keys = GANModel.gan_keys | {"gradient_penalty", "gradient_norm", "drift"}
    #: Whether the model reads ``train.growth``.
    grows = True

    def _start_training(self, train: Mapping[str, Any]) -> None:
        if not hasattr(self.net_g, "grow"):
            raise OptionError(
                f"network_g.type: {type(self.net_g).__name__} does not grow; ProgressiveModel trains PFSR"
            )
        self.stage_ends, self.fade_iter = _read_growth(train.get("growth"), self.net_g.num_stages)
        super()._start_training(train)

    def _start_discriminator(self, block: Mapping[str, Any], train: Mapping[str, Any]) -> None:
        super()._start_discriminator(block, train)
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
                network.grow(stage, fade)

    def compute_losses(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the objectives of :class:`GANModel` at the size of the stage, and ``d_penalty`` where there is one."""
        batch = {**batch, "gt": _reduce_to(batch["gt"], outputs["restored"].shape[-2:])}
        losses = super().compute_losses(batch, outputs)
        if self.net_d is not None and self.penalty:
            fake, real = (images.detach() for images in self._judged({**batch, **outputs}))
            with self._judging():
                losses["d_penalty"] = self.penalty * self._gradient_penalty(fake, real)
        return losses

    def _gradient_penalty(self, fake: Tensor, real: Tensor) -> Tensor:
        """Mean of ``(norm - penalty_norm)^2`` over images drawn between restored and real ones."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(fake, real, share).requires_grad_()
        with torch.autocast(self.device.type, enabled=False):
            # Not through DDP, which would wait for gradients that the penalty does not have; its own add to the others.
            judged = self.net_d(between).sum()
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


def _read_growth(block: Any, num_stages: int) -> tuple[list[int], int]:
    if not isinstance(block, Mapping) or set(block) != {"ends", "fade"}:
        raise OptionError(f"train.growth: expected the keys ends and fade, got {block!r}; {_EXAMPLE}")
    ends, fade = block["ends"], block["fade"]
    if (
        not isinstance(ends, list)
        or not all(type(end) is int and end > 0 for end in ends)
        or len(ends) != num_stages - 1
    ):
        raise OptionError(f"train.growth.ends: expected {num_stages - 1} steps for {num_stages} stages, got {ends!r}")
    if any(before >= after for before, after in pairwise(ends)):
        raise OptionError(f"train.growth.ends: steps must rise from stage to stage, got {ends!r}")
    if type(fade) is not int or fade < 0:
        raise OptionError(f"train.growth.fade: expected a number of steps, got {fade!r}; {_EXAMPLE}")
    return ends, fade


def _reduce_to(images: Tensor, size: tuple[int, int]) -> Tensor:
    while images.shape[-2] > size[0]:
        images = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return images
