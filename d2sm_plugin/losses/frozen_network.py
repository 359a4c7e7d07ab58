"""Objectives that look at images through a frozen network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class FrozenNetworkObjective(nn.Module):
    """Base of objectives with a frozen network that is no part of the training.

    The network is no child module: it stays in eval mode without gradients of its own, moves with the objective, and is
    neither among its parameters nor in its ``state_dict``, so that checkpoints do not hold it.

    Args:
        network: the network; becomes the attribute ``network``.
    """

    network: nn.Module

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["network"] = network.eval().requires_grad_(False)

    def compile_network(self) -> None:
        """Let the network, and what gives its feature maps, be compiled at the first call."""
        self.network.compile()
        for method in ("feature_map", "feature_maps"):  # compile() covers forward alone
            if callable(getattr(self.network, method, None)):
                self.network.__dict__[method] = torch.compile(getattr(self.network, method))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetworkObjective:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
