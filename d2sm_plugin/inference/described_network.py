"""Networks of weight files that say themselves which network they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from d2sm_plugin.archs.interface import bounded_parts
from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.registry import ARCH_REGISTRY, build
from d2sm_plugin.weight_files import read_description
from d2sm_plugin.weights import load_weights, weight_file


def network_block(
    source: str | Path, told: Mapping[str, Any] | None = None, remedy: str = "say network='FFDNet', for example"
) -> dict[str, Any]:
    """Return the option block of the network that a weight file belongs to.

    Args:
        source: path or URL of the weights.
        told: the block as somebody says it, which goes first.
        remedy: how to say it, for the message.

    Raises:
        CheckpointError: when the file cannot be read.
        OptionError: when neither the file nor ``told`` says it.
    """
    if told is not None:
        return dict(told)
    try:
        about = read_description(weight_file(source))
    except CheckpointError as error:
        if Path(str(source)).suffix.lower() in (".caffemodel", ".mat"):
            about = None  # published files of other kinds say nothing
        else:
            raise error
    if about is None:
        raise OptionError(f"{source}: the file does not say which network it belongs to; {remedy}")
    return dict(about.network)


def build_network(
    block: Mapping[str, Any], source: str | Path, key: str | None = None, where: str = "network"
) -> nn.Module:
    """Return the network of an option block with the weights of a file, on the CPU, in evaluation mode.

    Args:
        block: ``{"type": NAME, **arguments}``.
        source: path or URL of the weights.
        key: entry of the file, see :func:`d2sm_plugin.weights.read_weights`.
        where: who says the block, for messages.

    Raises:
        OptionError: for an unknown network or argument.
        CheckpointError: for weights that cannot be read or do not fit.
    """
    if str(block.get("type")) not in ARCH_REGISTRY:
        with suppress(ImportError):  # it may be one of BasicSR's, where that is installed
            import basicsr.archs  # noqa: F401
    with bounded_parts(where):
        network = build(ARCH_REGISTRY, block, where)
    load_weights(network, source, key)
    return network.eval()
