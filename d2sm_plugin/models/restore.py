"""Restoring one batch with any network: inputs by name, tiles, mixed precision, no gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from d2sm_plugin.archs.interface import gather_inputs, named_outputs, receptive_radius, size_multiple
from d2sm_plugin.data.noise import NOISE_SEED, with_seeded_noise
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.models.any_size import forward_any_size
from d2sm_plugin.models.tiles import tiled_forward

_AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[None]:
    """Return the autocast context for ``amp``: ``"bf16"``, ``"fp16"``, or None for full precision.

    Raises:
        OptionError: for another value.
    """
    if amp is None:
        return nullcontext()
    if amp not in _AMP_TYPES:
        raise OptionError(f"amp: '{amp}' is unknown{suggest(amp, _AMP_TYPES)}")
    return torch.autocast(device.type, dtype=_AMP_TYPES[amp])


def move_batch(
    batch: Mapping[str, Any], device: torch.device, layout: torch.memory_format | None = None
) -> dict[str, Any]:
    """Return a batch with its tensors on a device, and its images in a memory layout if one is given.

    Noise that is still to be made is made there, see :func:`~d2sm_plugin.data.noise.with_seeded_noise`.
    """
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) and name != NOISE_SEED else value
        for name, value in batch.items()
    }
    moved = with_seeded_noise(moved)
    if layout is not None:
        for name, value in moved.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                moved[name] = value.contiguous(memory_format=layout)
    return moved


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every part of it back into the mode it had afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def restore_batch(
    network: nn.Module,
    batch: Mapping[str, Any],
    tile: int | None = None,
    tile_overlap: int | None = None,
    amp: str | None = None,
    before: Callable[[Tensor], Tensor] | None = None,
    after: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Restore the images of a batch, in evaluation mode and without gradients.

    Sizes that the network does not take are padded and cropped back, see :mod:`d2sm_plugin.models.any_size`.

    Args:
        network: any network that follows :mod:`d2sm_plugin.archs.interface`. Its mode (train or eval) is put back
            afterwards, part by part.
        batch: the entries that the network takes, such as ``lq`` (B, C, H, W) in [0, 1] and ``sigma`` (B, 1, 1, 1), on
            the network's device.
        tile: side of the tiles in pixels, see :func:`d2sm_plugin.models.tiles.tiled_forward`; None for whole images.
        tile_overlap: context on each inner side of a tile, in pixels; None for the radius of the receptive field that
            the network declares as ``receptive_radius`` (then tiles change nothing), or else 64.
        amp: ``"bf16"`` or ``"fp16"`` to run under autocast; None for full precision.
        before: applied to each tile of the first entry that the network takes; it makes of pixels in a smaller type, or
            elsewhere, what the network takes, so that of a large image there need not be a copy.
        after: applied to each restored tile, likewise.

    Returns:
        Restored images (B, C, s*H, s*W), not clamped; float32, or float64 from a network in float64, or what ``after``
        makes of them.

    Raises:
        ShapeError: when the batch lacks an entry, or the network fails on images of these sizes.
        OptionError: for an unknown ``amp``, or a tile that is not larger than twice the overlap.
    """
    inputs = gather_inputs(network, batch)
    multiple = size_multiple(network)
    overlap = receptive_radius(network) if tile_overlap is None else tile_overlap

    def forward(*tensors: Tensor) -> Tensor:
        with autocast(amp, tensors[0].device):
            restored = named_outputs(network(*tensors))["restored"]
        return restored if restored.dtype == torch.float64 else restored.float()

    def on_tile(image: Tensor, *further: Tensor) -> Tensor:
        restored = forward_any_size(network, forward, (image if before is None else before(image), *further))
        return restored if after is None else after(restored)

    with evaluating(network), torch.inference_mode():
        return tiled_forward(on_tile, inputs, tile, overlap, multiple)
