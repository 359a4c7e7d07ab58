"""Trains any restoration network with any set of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2sm_plugin.archs.interface import gather_inputs, named_outputs
from d2sm_plugin.errors import TrainingError
from d2sm_plugin.models.objectives import Objectives, gradient_norms
from d2sm_plugin.models.optimisation import build_optimiser, build_scheduler, update_average
from d2sm_plugin.models.restore import autocast, restore_batch
from d2sm_plugin.registry import ARCH_REGISTRY, MODEL_REGISTRY, build, register
from d2sm_plugin.weights import load_weights


@register(MODEL_REGISTRY)
class D2SMModel(BaseModel):
    """Owns a generator, its objectives and its optimiser, and performs training steps.

    It does what BasicSR's ``SRModel`` does (``pixel_opt``, ``perceptual_opt``, EMA, schedulers) for any number of
    ``*_opt`` blocks, on CPU, one GPU or many processes. Subclasses change :meth:`compute_losses`, or add networks.

    Args:
        opt: validated options (:func:`d2sm_plugin.options.reader.read_options`) completed by the pipeline with
            ``num_gpu`` (0 or 1), ``dist``, ``rank`` and ``world_size``.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.logger = get_root_logger()
        paths = opt["path"]
        self.net_g = build(ARCH_REGISTRY, opt["network_g"], "network_g")
        if paths["pretrain_network_g"]:
            left = load_weights(
                self.net_g, paths["pretrain_network_g"], paths["param_key_g"], strict=paths["strict_load_g"]
            )
            remark = f"; {len(left)} tensors did not fit" if left else ""
            self.logger.info(f"Weights loaded from {paths['pretrain_network_g']}{remark}.")
        self.net_g.to(self.device)
        self.net_g_ema: nn.Module | None = None
        self.log_dict: dict[str, float] = {}
        if self.is_train:
            self._start_training(opt["train"])

    def _start_training(self, train: Mapping[str, Any]) -> None:
        self.amp: str | None = train["amp"]
        self.nonfinite_in_a_row = 0
        self.nonfinite_total = 0
        if train["channels_last"]:
            self.net_g.to(memory_format=torch.channels_last)
        if train["ema_decay"] > 0:
            self.net_g_ema = deepcopy(self.net_g).eval().requires_grad_(False)
        self.objectives = Objectives(train).to(self.device).train()
        if train["channels_last"]:
            self.objectives.to(memory_format=torch.channels_last)
        self.trained_net = self.distribute(self.net_g.train())
        if train["compile"]:
            self.trained_net = torch.compile(self.trained_net)
            self.objectives.compile_extractors()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == "fp16")
        self.optimizers = [build_optimiser(train["optim_g"], self.net_g.parameters(), "train.optim_g")]
        if train["scheduler"] is not None:
            self.schedulers = [build_scheduler(train["scheduler"], o) for o in self.optimizers]

    def distribute(self, net: nn.Module) -> nn.Module:
        """Return the network wrapped for the process group, or as it is for a single process."""
        if not self.opt["dist"]:
            return net
        devices = [torch.cuda.current_device()] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            net, device_ids=devices, find_unused_parameters=self.opt["find_unused_parameters"]
        )

    # ------------------------------------------------------------------------------------------------- training

    def to_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the batch with its tensors on the model's device (images in its memory layout)."""
        layout = torch.channels_last if self.is_train and self.opt["train"]["channels_last"] else None
        moved = {}
        for name, value in batch.items():
            if isinstance(value, Tensor):
                value = value.to(self.device, non_blocking=True)
                if layout is not None and value.ndim == 4:
                    value = value.contiguous(memory_format=layout)
            moved[name] = value
        return moved

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take one mini-batch for :meth:`optimize_parameters` (BasicSR's interface)."""
        self._fed = data

    def optimize_parameters(self, current_iter: int) -> None:
        """Perform one training step on the mini-batch given to :meth:`feed_data` (BasicSR's interface)."""
        self.train_step([self._fed], current_iter)

    def train_step(self, batches: Sequence[Mapping[str, Any]], current_iter: int) -> bool:
        """Perform one optimiser step on one or more mini-batches, whose gradients are averaged.

        Args:
            batches: as the dataset gives them; several for gradient accumulation.
            current_iter: number of this step, from 1.

        Returns:
            Whether the step was made; False when a loss was not finite and the step was skipped on every rank.

        Raises:
            TrainingError: after ``max_nonfinite_steps`` skipped steps in a row.
        """
        self.before_step(current_iter)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with self._without_sync(last):
                moved = self.to_device(batch)
                with autocast(self.amp, self.device):
                    outputs = {name: value.float() for name, value in named_outputs(self.run_network(moved)).items()}
                    losses = self.compute_losses(moved, outputs)
                if self._wants_gradient_norms(current_iter):
                    self._log_gradient_norms(losses, outputs)
                total = torch.stack(list(losses.values())).sum()
                self.scaler.scale(total / len(batches)).backward()
            if self._nonfinite_anywhere(total):
                self._skip_step(losses, batch)
                return False
        self._update_weights()
        self.nonfinite_in_a_row = 0
        self._log = {name: value.detach() for name, value in losses.items()}
        return True

    def before_step(self, current_iter: int) -> None:
        """Prepare for step ``current_iter``; subclasses extend it."""
        self.objectives.step = current_iter

    def run_network(self, batch: Mapping[str, Any]) -> Tensor | Mapping[str, Tensor]:
        """Return the generator's outputs for a batch, with gradients."""
        return self.trained_net(*gather_inputs(self.net_g, batch))

    def compute_losses(self, batch: Mapping[str, Any], outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return every weighted objective by name; the training loss is their sum."""
        return self.objectives(batch, outputs)

    def _without_sync(self, last: bool) -> AbstractContextManager:
        """Gradients travel between ranks once for each step, with its last mini-batch."""
        if last or not self.opt["dist"]:
            return nullcontext()
        return self.trained_net.no_sync()

    def _update_weights(self) -> None:
        train = self.opt["train"]
        for optimizer in self.optimizers:
            if train["grad_clip"] is not None:
                self.scaler.unscale_(optimizer)
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(parameters, train["grad_clip"])
            self.scaler.step(optimizer)
        self.scaler.update()
        if self.net_g_ema is not None:
            update_average(self.net_g_ema, self.net_g, train["ema_decay"])

    # --------------------------------------------------------------------------------- losses that are not finite

    def _nonfinite_anywhere(self, total: Tensor) -> bool:
        """Whether the loss is inf or NaN on any rank: the one place where a step waits for the device.

        The backward pass is queued already, so a GPU keeps working while the host waits.
        """
        flag = (~torch.isfinite(total.detach())).to(torch.int32)
        if self.opt["dist"]:
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _skip_step(self, losses: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.nonfinite_in_a_row += 1
        self.nonfinite_total += 1
        bad = [name for name, value in losses.items() if not torch.isfinite(value.detach())] or ["(on another rank)"]
        samples = ", ".join(map(str, batch.get("key", batch.get("gt_path", ["?"]))))
        self.logger.warning(
            f"Step skipped, number {self.nonfinite_in_a_row} in a row: loss not finite in {', '.join(bad)} on {samples}"
        )
        if self.nonfinite_in_a_row >= self.opt["train"]["max_nonfinite_steps"]:
            raise TrainingError(
                f"{self.nonfinite_in_a_row} losses in a row were not finite (train.max_nonfinite_steps), in: "
                f"{', '.join(bad)}; lower the learning rate or the objective's loss_weight, set grad_clip, or use bf16 "
                f"instead of fp16. The last checkpoint is whole"
            )

    # ------------------------------------------------------------------------------------------------- logging

    def _wants_gradient_norms(self, current_iter: int) -> bool:
        every = self.opt["logger"]["grad_norm_freq"]
        return current_iter == 1 or (every > 0 and current_iter % every == 0)

    def _log_gradient_norms(self, losses: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Log each objective's gradient norm at the network's output, and its ratio to the pixel objective's."""
        norms = {name: norm.item() for name, norm in gradient_norms(losses, outputs).items()}
        pixel = "pixel" if "pixel" in norms else next(iter(norms))
        for name, norm in norms.items():
            ratio = norm / norms[pixel] if norms[pixel] > 0 else float("inf")
            self.log_dict[f"grad_norm/{name}"] = norm
            self.log_dict[f"grad_ratio/{name}"] = ratio
            self.logger.info(f"Gradient of {name}: norm {norm:.3e} at the output, {ratio:.3g} times that of {pixel}.")

    def get_current_log(self) -> dict[str, float]:
        """Return the last step's losses (``l_*``, averaged over ranks) and what else is to be logged, then forget it.

        Every rank must call it at the same step. Reading the values waits for the device.
        """
        log, self.log_dict = self.log_dict, {}
        losses = getattr(self, "_log", None)
        if losses:
            values = torch.stack([value.float() for value in losses.values()])
            if self.opt["dist"]:
                torch.distributed.all_reduce(values)
                values /= self.opt["world_size"]
            log |= {f"l_{name}": value for name, value in zip(losses, values.tolist(), strict=True)}
        if self.nonfinite_total:
            log["nonfinite_steps"] = float(self.nonfinite_total)
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
        """Return what a model measures of each image of a batch beside ``val.metrics``; here nothing.

        Args:
            batch: as the dataset gives it.
            restored: what :meth:`restore` returned for it.
        """
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
            "nonfinite": [self.nonfinite_in_a_row, self.nonfinite_total],
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`training_state` returned; the networks are loaded by the pipeline."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.objectives.load_state_dict(state["objectives"])
        self.nonfinite_in_a_row, self.nonfinite_total = state["nonfinite"]
