"""Training of a restoration network against a discriminator, besides any other objectives."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from d2sm_plugin.archs.interface import gather_inputs
from d2sm_plugin.blocks import Whole
from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.models.objective_weight import ObjectiveOptions, ObjectiveWeight, class_arguments
from d2sm_plugin.models.optimisation import build_optimiser, build_scheduler, parameters_of
from d2sm_plugin.models.pretrained import load_pretrained
from d2sm_plugin.models.train_options import TrainOptions
from d2sm_plugin.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY, build, register

#: Objectives that train the discriminator alone.
_OF_DISCRIMINATOR = ("d_real", "d_fake", "d_penalty")


class GANTrainOptions(TrainOptions):
    """``train`` of a model with a discriminator."""

    optim_d: dict[str, Any] | None = Field(None, description="as optim_g, for the discriminator")
    net_d_iters: Whole = Field(1, ge=1, description="steps of the discriminator for one of the generator")
    net_d_init_iters: Whole = Field(0, ge=0, description="steps of the discriminator before the generator's first")


class GANObjectiveOptions(ObjectiveOptions):
    """Keys of ``train.gan_opt`` that the model reads itself."""

    condition: list[str] | None = Field(
        None, description="batch entries that the discriminator sees beside each image, e.g. [lq]"
    )


@register(MODEL_REGISTRY)
class GANModel(D2SMModel):
    """:class:`D2SMModel` with a discriminator: ``network_d``, ``train.gan_opt`` (BasicSR's GANLoss), ``train.optim_d``.

    A step trains both networks on the same restored images. The generator's objective sees the discriminator as it
    was before the step and never its gradient; the discriminator learns real + fake on restored images without their
    graph. That equals updating one after the other, as BasicSR's GAN models do, with a single backward pass.

    The generator rests during the first ``net_d_init_iters`` steps and is then trained at every ``net_d_iters``-th
    step. ``gan_opt.takes`` names what is judged and what is real, ``[restored, gt]`` unless given; ``gan_opt.schedule``
    changes the weight of the generator's objective as that of any other.

    ``gan_opt.condition`` names batch entries that the discriminator sees beside each image, such as ``[lq]``: they come
    before it along the channels, so that of RGB images it takes 6 channels.

    Args:
        opt: see :class:`D2SMModel`.
    """

    train_options: type[TrainOptions] = GANTrainOptions
    train_block: GANTrainOptions
    networks_in_options = ("network_g", "network_d")
    #: Whether training without ``gan_opt`` is an error; subclasses may leave the choice to the option file.
    needs_discriminator = True
    #: Keys of ``train.gan_opt`` that the model reads itself.
    gan_options: type[ObjectiveOptions] = GANObjectiveOptions

    def _start_training(self, objectives: Mapping[str, Mapping[str, Any]]) -> None:
        self.net_d: nn.Module | None = None
        self._generator_trains = True
        super()._start_training({key: block for key, block in objectives.items() if key != "gan_opt"})
        if "gan_opt" in objectives:
            self._start_discriminator(objectives["gan_opt"])

    @classmethod
    def check_options(cls, options: Mapping[str, Any], network: nn.Module | None) -> None:
        """Refuse a discriminator of which a part is missing."""
        super().check_options(options, network)
        train = options["train"]
        if train.get("gan_opt") is None:
            if cls.needs_discriminator or options["network_d"] is not None:
                raise OptionError(
                    "train.gan_opt: this block is missing, for example {type: GANLoss, gan_type: vanilla}"
                )
            return
        rests = train["net_d_iters"]
        for key, block in train.items():
            every = block.get("every", 1) if key.endswith("_opt") and isinstance(block, Mapping) else 1
            if gcd(every, rests) > 1:
                raise OptionError(
                    f"train.{key}.every: the generator trains once in net_d_iters = {rests} steps, so {every} "
                    f"would give this objective more than its weight; choose a number without a common divisor"
                )
        for key, block in (("network_d", options["network_d"]), ("train.optim_d", train["optim_d"])):
            if block is None:
                raise OptionError(f"{key}: this block is missing; train.gan_opt needs a discriminator to train")

    def _start_discriminator(self, block: Mapping[str, Any]) -> None:
        self.gan_takes = tuple(block.get("takes") or ("restored", "gt"))
        self.gan_condition = tuple(block.get("condition") or ())
        self.objectives.may_rest = True
        self.objectives.weights["gan"] = ObjectiveWeight(block, "train.gan_opt")
        arguments = class_arguments(block, self.gan_options)
        self.gan_objective = build(LOSS_REGISTRY, arguments, "train.gan_opt").to(self.device)
        self.net_d = build(ARCH_REGISTRY, self.opt["network_d"], "network_d")
        load_pretrained(self.net_d, self.opt["path"], "d", self.logger)
        self.trained_net_d = self.distribute(self.net_d.to(self.device).train())
        train = self.train_block
        optimiser = build_optimiser(train.optim_d or {}, self.net_d.parameters(), "train.optim_d")
        self.optimizers.append(optimiser)
        if train.scheduler is not None:
            self.schedulers.append(build_scheduler(train.scheduler, optimiser))

    # ------------------------------------------------------------------------------------------------- training

    def before_step(self, current_iter: int) -> None:
        """Decide whether the generator trains in this step."""
        super().before_step(current_iter)
        train = self.train_block
        self._generator_trains = self.net_d is None or (
            current_iter > train.net_d_init_iters and current_iter % train.net_d_iters == 0
        )

    def run_network(self, batch: Mapping[str, Any]) -> Tensor | Mapping[str, Tensor]:
        """Return the generator's outputs, with gradients where it trains."""
        if self._generator_trains:
            return super().run_network(batch)
        with torch.no_grad():  # outside DDP, which expects a backward pass for every forward pass
            return self.net_g(*gather_inputs(self.net_g, batch))

    def compute_losses(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the generator's objectives (``gan`` among them) and the discriminator's (``d_real``, ``d_fake``)."""
        losses = super().compute_losses(batch, outputs) if self._generator_trains else {}
        if self.net_d is None:
            return losses
        fake, real = self._judged({**batch, **outputs})
        if self._generator_trains:
            self.net_d.requires_grad_(False)  # the generator's objective must leave it no gradient
            with self._judging():
                losses["gan"] = self.gan_objective(self.net_d(fake), True, is_disc=False)
            if self.objectives.weights["gan"].relative is None:
                losses["gan"] = self.objectives.weights["gan"].scheduled(self.objectives.step) * losses["gan"]
            self.net_d.requires_grad_(True)
        with self._judging():
            losses["d_real"] = self.gan_objective(self.trained_net_d(real), True, is_disc=True)
            losses["d_fake"] = self.gan_objective(self.trained_net_d(fake.detach()), False, is_disc=True)
        return losses

    def _judging(self) -> foreign_code:
        kinds = f"{type(self.net_d).__name__} and {type(self.gan_objective).__name__}"
        return foreign_code(f"network_d, train.gan_opt: {kinds}")

    def _judged(self, entries: Mapping[str, Any]) -> list[Tensor]:
        """Return what the discriminator is shown as fake and as real: the image behind its conditions."""
        for key, names in (("takes", self.gan_takes), ("condition", self.gan_condition)):
            missing = [name for name in names if name not in entries]
            if missing:
                raise OptionError(
                    f"train.gan_opt.{key}: neither the dataset nor the network gives {', '.join(missing)} (given: "
                    f"{', '.join(sorted(entries))})"
                )
        conditions = [entries[name] for name in self.gan_condition]
        images = [entries[name] for name in self.gan_takes]
        for name, condition in zip(self.gan_condition, conditions, strict=True):
            if condition.shape[-2:] != images[0].shape[-2:]:
                raise OptionError(
                    f"train.gan_opt.condition: {name} has the size {tuple(condition.shape[-2:])}, the judged image "
                    f"{tuple(images[0].shape[-2:])}; they must be equal"
                )
        # BasicSR's VGGStyleDiscriminator reads its maps with .view, which channels_last does not allow.
        return [torch.cat((*conditions, image), dim=1).contiguous() for image in images]

    def _gradient_norms(self, losses: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compare the generator's objectives alone; the discriminator's do not reach its output."""
        generators = {name: loss for name, loss in losses.items() if name not in _OF_DISCRIMINATOR}
        return super()._gradient_norms(generators, outputs)

    def optimizers_to_step(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers whose networks have gradients; those of a resting generator have none."""
        every = super().optimizers_to_step()
        return [optimiser for optimiser in every if any(p.grad is not None for p in parameters_of(optimiser))]

    # ------------------------------------------------------------------------------------------------- state

    def networks(self) -> dict[str, dict[str, nn.Module]]:
        """Return the networks to be saved: those of :class:`D2SMModel` and ``net_d``."""
        networks = super().networks()
        if self.is_train and self.net_d is not None:
            networks["net_d"] = {"params": self.net_d}
        return networks
