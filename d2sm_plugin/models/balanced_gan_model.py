"""Training of a network against a discriminator, whichever of the two is behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from d2sm_plugin.models.gan_model import GANModel, GANObjectiveOptions
from d2sm_plugin.registry import MODEL_REGISTRY, register


class BalancedObjectiveOptions(GANObjectiveOptions):
    """Keys of ``train.gan_opt`` that :class:`BalancedGANModel` reads itself."""

    margin: float = Field(0.3, gt=0, lt=0.5, description="loss below which a network is too far ahead to train")


@register(MODEL_REGISTRY)
class BalancedGANModel(GANModel):
    """:class:`GANModel` in which a network that is too far ahead skips its step, as URDGN is trained (ECCV 2016).

    The discriminator rests when one of its losses, on real or on restored images, is below ``gan_opt.margin``; the
    generator rests when one is above ``1 - margin``; both train when both would rest. Losses are cross entropies
    (``gan_type: vanilla``), averaged over the processes and the mini-batches of a step.

    Args:
        opt: see :class:`GANModel`.
    """

    gan_options = BalancedObjectiveOptions

    def _start_discriminator(self, block: Mapping[str, Any]) -> None:
        super()._start_discriminator(block)
        self.margin = block.get("margin", BalancedObjectiveOptions.model_fields["margin"].default)

    def before_step(self, current_iter: int) -> None:
        """Forget the losses of the step before."""
        super().before_step(current_iter)
        self._judgements: list[Tensor] = []

    def compute_losses(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the objectives of :class:`GANModel`, and remember the discriminator's."""
        losses = super().compute_losses(batch, outputs)
        self._judgements.append(torch.stack([losses["d_real"], losses["d_fake"]]).detach())
        return losses

    def optimizers_to_step(self) -> list[torch.optim.Optimizer]:
        """Take the gradients of a resting network away, so that neither its weights nor its optimiser change."""
        for network in self._resting():
            network.zero_grad(set_to_none=True)
        return super().optimizers_to_step()

    def _resting(self) -> list[torch.nn.Module]:
        judged = torch.stack(self._judgements).mean(0)
        if self.opt["dist"]:  # every process must decide alike
            torch.distributed.all_reduce(judged)
            judged /= self.opt["world_size"]
        low, high = (value.item() for value in judged.aminmax())
        discriminator_leads, generator_leads = low < self.margin, high > 1 - self.margin
        if discriminator_leads == generator_leads:
            return []
        resting = self.net_d if discriminator_leads else self.net_g
        return [] if resting is None else [resting]
