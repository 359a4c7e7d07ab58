"""Training of DICNet and DICGAN, with D2SM or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pydantic import Field, NonNegativeInt
from torch import nn

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.models.gan_model import GANModel, GANTrainOptions
from d2sm_plugin.registry import MODEL_REGISTRY, register


class DICTrainOptions(GANTrainOptions):
    """``train`` of DICModel."""

    frozen: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="part of the network -> step until which it keeps its weights"
    )


@register(MODEL_REGISTRY)
class DICModel(GANModel):
    """Training of face super-resolution with landmarks (DICNet, Ma et al., CVPR 2020).

    Objectives at every step are :class:`StepwiseLoss` blocks on ``steps`` or ``heatmaps``; D2SM, perceptual and
    adversarial ones take ``restored``, the last step. With ``gan_opt``, ``network_d`` and ``optim_d`` it is DICGAN;
    without them there is no discriminator.

    ``train.frozen`` names parts of the generator and the step until which each keeps its weights, for example
    ``{aligner: 2000}`` for the hourglass. Gradients pass through a frozen part into the restored image all the same.

    Args:
        opt: see :class:`D2SMModel`.

    Raises:
        OptionError: for a part that the generator does not have.
    """

    train_options = DICTrainOptions
    train_block: DICTrainOptions
    needs_discriminator = False

    def _start_training(self, objectives: Mapping[str, Mapping[str, Any]]) -> None:
        super()._start_training(objectives)
        self._frozen_until = self.train_block.frozen
        _check_parts(self.net_g, self._frozen_until)
        self._resting: list[nn.Module] = []

    @classmethod
    def check_options(cls, options: Mapping[str, Any], network: nn.Module | None) -> None:
        """Refuse to freeze a part that the generator does not have."""
        super().check_options(options, network)
        if network is not None:
            _check_parts(network, options["train"]["frozen"])

    def before_step(self, current_iter: int) -> None:
        """Freeze and release parts of the generator."""
        super().before_step(current_iter)
        self._resting = []
        for name, until in self._frozen_until.items():
            part = self.net_g.get_submodule(name)
            rests = current_iter <= until
            # DDP waits for the gradient of every parameter that it was built with, so there it is computed and dropped.
            part.requires_grad_(not rests or self.opt["dist"])
            if rests:
                self._resting.append(part)

    def optimizers_to_step(self) -> list[torch.optim.Optimizer]:
        """Drop the gradients of resting parts, which DDP had to compute."""
        for part in self._resting:
            part.zero_grad(set_to_none=True)
        return super().optimizers_to_step()


def _check_parts(network: nn.Module, names: Iterable[str]) -> None:
    parts = dict(network.named_children())
    for name in names:
        if name not in parts:
            raise OptionError(f"train.frozen: {type(network).__name__} has no part '{name}'{suggest(name, parts)}")
