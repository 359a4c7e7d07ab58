"""Objectives that look at images through a frozen network."""

from __future__ import annotations

from collections.abc import Callable

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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenNetworkObjective:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)
