"""Training of any restoration network with any set of objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2sm_plugin.archs.interface import gather_inputs, named_outputs
from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.losses.gather import mean_over_processes
from d2sm_plugin.losses.relative_weight import gradient_norms, joint_norms
from d2sm_plugin.models.nonfinite import KeptBuffers, StepGuard
from d2sm_plugin.models.objectives import Objectives
from d2sm_plugin.models.optimisation import (
    build_optimiser,
    build_scheduler,
    load_optimisation,
    parameters_of,
    step_schedule,
    update_average,
)
from d2sm_plugin.models.pretrained import load_pretrained
from d2sm_plugin.models.restore import autocast, move_batch, restore_batch
from d2sm_plugin.models.step_record import StepRecord, describe_batch
from d2sm_plugin.models.train_options import TrainOptions
from d2sm_plugin.registry import ARCH_REGISTRY, MODEL_REGISTRY, build, register


@register(MODEL_REGISTRY)
class D2SMModel(BaseModel):
    """A generator with its objectives and its optimiser, and their training step.

    It does what BasicSR's ``SRModel`` does (``pixel_opt``, ``perceptual_opt``, EMA, schedulers) for any number of
    ``*_opt`` blocks, on CPU, one GPU or many processes. Subclasses change :meth:`compute_losses`, or add networks.

    Args:
        opt: validated options (:func:`d2sm_plugin.options.reader.read_options`) completed by the pipeline with
            ``num_gpu`` (0 or 1), ``device`` (its kind), ``dist``, ``rank`` and ``world_size``.
    """

    #: Typed model of the block ``train``; subclasses with keys of their own name a subclass of it.
    train_options: type[TrainOptions] = TrainOptions
    #: The block ``train``, where the model trains.
    train_block: TrainOptions
    #: Blocks of an option file that describe networks of this model.
    networks_in_options: tuple[str, ...] = ("network_g",)
    #: Names of what :meth:`measure` returns, and whether ``"higher"`` or ``"lower"`` is better.
    measures: Mapping[str, str] = {}

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        if "device" in opt:  # BasicSR's base knows of CUDA and the CPU alone
            self.device = torch.device(opt["device"])
        self.logger = get_root_logger()
        self.net_g = build(ARCH_REGISTRY, opt["network_g"], "network_g")
        load_pretrained(self.net_g, opt["path"], "g", self.logger)
        self.net_g.to(self.device)
        self.net_g_ema: nn.Module | None = None
        self.log_dict: dict[str, float] = {}
        if self.is_train:
            self.train_block = self.train_options.model_validate(opt["train"])
            self._start_training(self.train_block.objectives)
            most = self.train_block.max_nonfinite_steps
            self.guard = StepGuard(self.networks(), self.scaler, most, opt["dist"], self.logger)

    def _start_training(self, objectives: Mapping[str, Mapping[str, Any]]) -> None:
        train = self.train_block
        self.amp: str | None = train.amp
        if train.channels_last:
            self.net_g.to(memory_format=torch.channels_last)
        if train.ema_decay > 0:
            self.net_g_ema = deepcopy(self.net_g).eval().requires_grad_(False)
        self.objectives = Objectives(objectives)
        if self.device.type == "mps":
            self.objectives.refuse_without_float64()
        self.objectives.to(self.device).train()
        if train.channels_last:
            self.objectives.to(memory_format=torch.channels_last)
        self.trained_net: Any = self.distribute(self.net_g.train())  # compiled, it is a module as well
        if train.compile:
            self.trained_net = torch.compile(self.trained_net)
            self.objectives.compile_extractors()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")
        self.optimizers = [build_optimiser(train.optim_g, self.net_g.parameters(), "train.optim_g")]
        if train.scheduler is not None:
            self.schedulers = [build_scheduler(train.scheduler, o) for o in self.optimizers]

    def distribute(self, net: nn.Module) -> nn.Module:
        """Return the network wrapped for the process group, or as it is for a single process."""
        if not self.opt["dist"]:
            return net
        devices = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            net, device_ids=devices, find_unused_parameters=self.opt["find_unused_parameters"]
        )

    @classmethod
    def check_options(cls, options: Mapping[str, Any], network: nn.Module | None) -> None:
        """Refuse options of a training that do not go together, before anything is built; subclasses extend it.

        Args:
            options: validated options.
            network: ``network_g`` without values (on the meta device); None where it cannot be made there.

        Raises:
            OptionError: naming the key.
        """

    def to_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with its tensors on the model's device (images in its memory layout)."""
        layout = torch.channels_last if self.is_train and self.train_block.channels_last else None
        return move_batch(batch, self.device, layout)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take one mini-batch for :meth:`optimize_parameters` (BasicSR's interface)."""
        self._fed = data

    def optimize_parameters(self, current_iter: int) -> None:
        """Perform one training step on the mini-batch given to :meth:`feed_data` (BasicSR's interface)."""
        self.train_step([self._fed], current_iter)

    def train_step(self, batches: Sequence[Mapping[str, Any]], current_iter: int) -> bool:
        """Perform one optimiser step on one or more mini-batches, over which means are averaged and sums add up.

        Args:
            batches: as the dataset gives them; several for gradient accumulation.
            current_iter: number of this step, from 1.

        Returns:
            Whether the step was made; False when a loss or a gradient was not finite on any rank. Then no rank changes
            weights, moving average or buffers.

        Raises:
            TrainingError: after ``max_nonfinite_steps`` skipped steps in a row.
            ForeignError: when network or objectives raise something.
        """
        self.before_step(current_iter)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        record, with_norms = StepRecord(), self._wants_gradient_norms(current_iter)
        with KeptBuffers(kinds["params"] for kinds in self.networks().values()) as buffers:
            for number, batch in enumerate(batches):
                with self._without_sync(number == len(batches) - 1):
                    self._accumulate(batch, len(batches), record, with_norms)
            norms = joint_norms(record.squares)
            if with_norms:
                self._note(*self.objectives.describe_gradients(norms))
            optimizers = self.optimizers_to_step()
            objection = self.guard.objection(record, self.networks(), optimizers)
            buffers.changed = objection is None
        if objection is not None:
            self.guard.leave_out(objection, self.damage())
            return False
        self._update_weights(optimizers)
        self._note(*self.objectives.measure(norms))
        self._log = record.losses(self.objectives.accumulation)
        return True

    def _accumulate(self, batch: Mapping[str, Any], mini_batches: int, record: StepRecord, with_norms: bool) -> None:
        """Add the gradients of one of the step's mini-batches to those there are."""
        moved = self.to_device(batch)
        with autocast(self.amp, self.device):
            with foreign_code(lambda: f"network_g: {type(self.net_g).__name__} on {describe_batch(moved)}"):
                outputs = {name: value.float() for name, value in named_outputs(self.run_network(moved)).items()}
            losses = self.compute_losses(moved, outputs)
        losses = self.objectives.shared(losses, mini_batches, self.opt["world_size"])
        measured = losses if with_norms else {k: losses[k] for k in self.objectives.to_measure() if k in losses}
        if measured:
            record.add_norms(self._gradient_norms(measured, outputs))
        losses = self.objectives.weighted(losses)
        total = torch.stack(list(losses.values())).sum()
        with foreign_code(lambda: f"the backward pass of {', '.join(losses)} and {type(self.net_g).__name__}"):
            self.scaler.scale(total).backward()
        record.add(losses, total, batch)

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the learning rate for step ``current_iter`` (from 1), see :func:`step_schedule`."""
        step_schedule(self.optimizers, self.schedulers, current_iter, warmup_iter)

    def before_step(self, current_iter: int) -> None:
        """Prepare for step ``current_iter``; subclasses extend it."""
        self.objectives.step = current_iter

    def run_network(self, batch: Mapping[str, Any]) -> Tensor | Mapping[str, Tensor]:
        """Return the generator's outputs for a batch, with gradients."""
        return self.trained_net(*gather_inputs(self.net_g, batch))

    def compute_losses(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every objective by name, weighted but for relative weights; the training loss is their sum."""
        return self.objectives(batch, outputs)

    def _without_sync(self, last: bool) -> AbstractContextManager[object]:
        """Gradients travel between ranks once for each step, with its last mini-batch."""
        return nullcontext() if last or not self.opt["dist"] else self.trained_net.no_sync()

    def optimizers_to_step(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers that this step belongs to; subclasses drop gradients that are not to be applied."""
        return self.optimizers

    def _update_weights(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        train = self.train_block
        for optimizer in optimizers:
            if train.grad_clip is not None:
                self.scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), train.grad_clip)
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.net_g_ema is not None:
            update_average(self.net_g_ema, self.net_g, train.ema_decay)

    def damage(self) -> str | None:
        """Return which network or optimiser's state holds inf or NaN, for a message, or None; it is not to be saved."""
        return self.guard.damage(self.networks(), self.optimizers)

    def _wants_gradient_norms(self, step: int) -> bool:
        every = self.opt["logger"]["grad_norm_freq"]
        return self.objectives.begins() or (every > 0 and step % every == 0) or self.guard.in_a_row > 0

    def _gradient_norms(self, losses: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the norm of each objective's gradient at the outputs; subclasses leave out those that have none."""
        return gradient_norms(losses, outputs.values(), self.scaler.get_scale())

    def _note(self, values: Mapping[str, float], lines: Iterable[tuple[int, str]]) -> None:
        """Keep values for the next log of a step, and write lines with their levels at once."""
        self.log_dict |= values
        for level, line in lines:
            self.logger.log(level, line)

    def get_current_log(self) -> dict[str, float]:
        """Return the last step's losses (``l_*``, averaged over ranks) and what else is to be logged, then forget it.

        Every rank must call it at the same step. Reading the values waits for the device.
        """
        log, self.log_dict = self.log_dict, {}
        losses = getattr(self, "_log", None)
        if losses:
            values = mean_over_processes(torch.stack([value.float() for value in losses.values()]))
            log |= {f"l_{name}": value for name, value in zip(losses, values.tolist(), strict=True)}
        if self.guard.total:
            log["nonfinite_steps"] = float(self.guard.total)
        return log

    # --------------------------------------------------------------------------------------- validation and testing

    @property
    def best_network(self) -> nn.Module:
        """The network that restores: the moving average where there is one."""
        return self.net_g_ema if self.net_g_ema is not None else self.net_g

    def restore(self, batch: Mapping[str, Any], tile: int | None = None, tile_overlap: int | None = None) -> Tensor:
        """Return restored images (B, C, H, W), float32, not clamped; see :func:`restore_batch`."""
        amp = self.amp if self.is_train else None
        return restore_batch(self.best_network, self.to_device(batch), tile, tile_overlap, amp)

    def measure(self, batch: Mapping[str, Any], restored: Tensor) -> list[dict[str, float]]:
        """Return what a model measures of each image, restored already, beside ``val.metrics``; here nothing."""
        return [{} for _ in restored]

    # ------------------------------------------------------------------------------------------------- state

    def networks(self) -> dict[str, dict[str, nn.Module]]:
        """Return the networks to be saved: file label -> wrapper key -> network."""
        saved = {"params": self.net_g}
        if self.net_g_ema is not None:
            saved["params_ema"] = self.net_g_ema
        return {"net_g": saved}

    def training_state(self) -> dict[str, Any]:
        """Return everything but network weights that the next steps depend on."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "scaler": self.scaler.state_dict(),
            "objectives": self.objectives.state_dict(),
            "nonfinite": [self.guard.in_a_row, self.guard.total],
        }

    def load_training_state(self, state: Mapping[str, Any], new_schedule: bool = False) -> None:
        """Take back what :meth:`training_state` returned; the networks are loaded by the pipeline.

        Args:
            state: with the step (``iter``) that it was taken at.
            new_schedule: learning rates and all else that optimisers are told come from the options, as if these had
                been so from the first step; only what the optimisers remember of gradients comes from the state.
        """
        warmup = self.train_block.warmup_iter if new_schedule else None
        load_optimisation(self.optimizers, self.schedulers, state, warmup)
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.objectives.load_state_dict(state["objectives"])
        self.guard.in_a_row, self.guard.total = state["nonfinite"]
