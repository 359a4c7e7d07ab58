"""Weights that a training starts from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from d2sm_plugin.weights import load_weights


def load_pretrained(
    network: nn.Module, paths: Mapping[str, Any], label: Literal["g", "d"], logger: logging.Logger
) -> None:
    """Load the weights that ``path.pretrain_network_g`` or ``..._d`` names, if it names any, and log it.

    Args:
        network: that takes them.
        paths: the block ``path``.
        label: of the network.
        logger: gets a line.

    Raises:
        CheckpointError: when the file cannot be read or does not fit.
    """
    file = paths[f"pretrain_network_{label}"]
    if not file:
        return
    left = load_weights(network, file, paths[f"param_key_{label}"], strict=paths[f"strict_load_{label}"])
    remark = f"; {len(left)} tensors did not fit" if left else ""
    logger.info(f"Weights loaded from {file}{remark}.")
