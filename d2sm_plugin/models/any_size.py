"""Images of sizes that a network does not take: padded to what it needs, and cropped back.

Networks such as those with windows or several scales want H and W to be multiples of some number, and rarely say of
which. It is found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import D2SMError, ShapeError

#: Numbers of which H and W may have to be multiples, tried in this order: strides, and sides of attention windows.
MULTIPLES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96, 112, 128)
#: Trials are made on images of at least so many pixels a side, so that smallness is not what fails.
_TRIAL_SIDE = 64

Forward = Callable[..., Tensor]


class _Needs:
    """Sizes that one network is known to need."""

    def __init__(self) -> None:
        self.multiple_for: dict[tuple[int, int], int] = {}  # of sizes that need padding
        self.works: dict[int, bool] = {}  # multiple -> whether images of such sizes pass


_known: WeakKeyDictionary[nn.Module, _Needs] = WeakKeyDictionary()


def forward_any_size(network: nn.Module, forward: Forward, inputs: Sequence[Tensor]) -> Tensor:
    """Run ``forward(*inputs)``; where it fails or returns another size, pad the images and crop the result.

    Images are continued by reflection. The result for one depends on its size alone, not on what was restored before.

    Args:
        network: what ``forward`` runs; findings are remembered for it.
        forward: returns restored images (B, C, s*H, s*W) for a whole number s.
        inputs: the first is the image (B, C, H, W); others of its size are padded alike, all others pass as they are.

    Returns:
        (B, C, s*H, s*W), or what ``forward`` returned where it does not keep to that with any size.

    Raises:
        ShapeError: when ``forward`` fails with every size; the message has its reason.
    """
    size = (inputs[0].shape[-2], inputs[0].shape[-1])
    needs = _known.setdefault(network, _Needs())
    if size in needs.multiple_for:
        return _padded(forward, inputs, needs.multiple_for[size])
    failure: Exception | None = None
    restored: Tensor | None = None
    try:
        restored = forward(*inputs)
        if _scale(restored, size) is not None:
            return restored
    except Exception as error:  # a network may raise anything at a size that it does not take
        if isinstance(error, D2SMError) or _memory_ran_out(error):
            raise
        failure = error
    for multiple in MULTIPLES:
        if not (size[0] % multiple or size[1] % multiple) or not _passes(needs, forward, inputs, multiple):
            continue
        try:
            padded = _padded(forward, inputs, multiple)
        except Exception as error:
            if _memory_ran_out(error):
                raise
            continue
        needs.multiple_for[size] = multiple
        return padded
    if restored is not None:
        return restored
    raise ShapeError(
        f"{type(network).__name__} fails on images of {size[0]}x{size[1]} (height x width), and padded to multiples of "
        f"{MULTIPLES[0]} to {MULTIPLES[-1]} too: {type(failure).__name__}: {' '.join(str(failure).split())}"
    ) from failure


def _passes(needs: _Needs, forward: Forward, inputs: Sequence[Tensor], multiple: int) -> bool:
    """Tell whether images pass whose sides are odd multiples of a number, found on a small part of the given ones."""
    if multiple not in needs.works:
        times = -(-_TRIAL_SIDE // multiple) | 1
        size = (multiple * times, multiple * (times + 2))
        try:
            trial = forward(*_resized(inputs, size))
            needs.works[multiple] = _scale(trial, size) is not None
        except Exception:  # noqa: BLE001  # that it fails is what was asked
            needs.works[multiple] = False
    return needs.works[multiple]


def _padded(forward: Forward, inputs: Sequence[Tensor], multiple: int) -> Tensor:
    height, width = inputs[0].shape[-2:]
    size = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
    restored = forward(*_resized(inputs, size))
    scale = _scale(restored, size)
    if scale is None:
        raise ShapeError(f"{tuple(restored.shape[-2:])} is no whole multiple of {size}")
    return restored[..., : scale * height, : scale * width].contiguous()


def _resized(inputs: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """Cut or continue by reflection everything that has the image's size, from the top left corner."""
    image = inputs[0]
    rows, columns = (
        _reflected(length, wanted, image.device) for length, wanted in zip(image.shape[-2:], size, strict=True)
    )
    return [entry[..., rows, :][..., columns] if entry.shape[-2:] == image.shape[-2:] else entry for entry in inputs]


def _reflected(length: int, wanted: int, device: torch.device) -> Tensor:
    """Positions 0 to ``wanted`` - 1, folded back at both ends of an axis as often as need be."""
    period = max(1, 2 * (length - 1))
    position = torch.arange(wanted, device=device) % period
    return torch.minimum(position, period - position) if length > 1 else torch.zeros_like(position)


def _scale(restored: Tensor, size: tuple[int, int]) -> int | None:
    """Scale of a result against its input; None where that is no whole number, the same for both sides."""
    scale = restored.shape[-2] // size[0]
    return scale if scale and tuple(restored.shape[-2:]) == (scale * size[0], scale * size[1]) else None


def _memory_ran_out(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
