"""The centre of clear features, for kernels that measure directions from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from d2sm_plugin.losses.state_module import StateModule


class ClearCentre(StateModule):
    """Mean of clear features: that of the batch, or of the first samples of a training, then frozen.

    A queue holds rows from many steps, and their statistics are exact only if all were centred alike. So with a queue
    the centre is the mean of the first ``samples`` clear samples, and does not move any more.

    Args:
        samples: None takes the mean of each batch; else the number of samples after which the centre is frozen.

    Attributes:
        mean: of the clear features met so far, float64 (D,).
        count: their number.
    """

    host_buffers = ("count",)
    mean: Tensor
    count: Tensor

    def __init__(self, samples: int | None) -> None:
        super().__init__()
        self.samples = samples
        self.register_buffer("mean", torch.empty(0, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def frozen(self) -> bool:
        """True once the centre has been found and stays."""
        return self.samples is not None and int(self.count) >= self.samples

    def forward(self, clear: Tensor) -> Tensor:
        """Return the centre (D,) for a batch of clear features (n, D), in their dtype.

        In training, with gradients, a batch is counted until the centre is frozen. Before that each batch has its own.
        """
        if self.frozen:
            return self.mean.to(clear.device, clear.dtype)
        of_batch = clear.detach().double().mean(0)
        if self.samples is not None and self.training and torch.is_grad_enabled():
            met, arriving = int(self.count), len(clear)
            before = self.mean.to(clear.device) if met else torch.zeros_like(of_batch)
            self.mean = before + (of_batch - before) * (arriving / (met + arriving))
            self.count.fill_(met + arriving)
        return of_batch.to(clear.dtype)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take over the number of features, which a centre that has met none does not know yet."""
        stored = state_dict.get(f"{prefix}mean")
        if stored is not None:
            self.mean = torch.zeros_like(stored, device=self.mean.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
