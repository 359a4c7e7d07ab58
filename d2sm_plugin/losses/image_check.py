"""Checks of images that an objective is given: shapes and value range."""

from __future__ import annotations

from torch import Tensor

from d2sm_plugin.errors import ShapeError

_TOLERANCE = 1e-3
# Images in another range are the clear ones in that range, but for what is left of the degradation.
_OTHER_RANGES = (("[0, 255]", 255.0, 0.0, "divide them by 255"), ("[-1, 1]", 2.0, -1.0, "map them by (x + 1) / 2"))


class ImageCheck:
    """Checks of every call of an objective: shapes each time, and the value range, which waits for the device, once."""

    def __init__(self) -> None:
        self._range_is_known = False

    def __call__(self, restored: Tensor, clear: Tensor) -> None:
        """Raise a ShapeError for images that cannot be compared."""
        check_shapes(restored, clear)
        if not self._range_is_known:
            check_range(restored, clear)
            self._range_is_known = True


def check_shapes(restored: Tensor, clear: Tensor) -> None:
    """Raise a ShapeError unless both are floating point images (B, C, H, W) of one shape."""
    if restored.ndim != 4 or restored.shape != clear.shape or restored.shape[0] == 0:
        raise ShapeError(
            f"restored and clear images must have one shape (B, C, H, W), B > 0; got {tuple(restored.shape)} and "
            f"{tuple(clear.shape)}"
        )
    if not (restored.is_floating_point() and clear.is_floating_point()):
        raise ShapeError(
            f"restored and clear images must be floating point in [0, 1]; got {restored.dtype} and {clear.dtype}"
        )


def check_range(restored: Tensor, clear: Tensor) -> None:
    """Raise a ShapeError when the images are in another range than [0, 1]; waits for the device.

    ``clear`` must be in [0, 1]. What a network has restored may leave it, far even at the start of a training; it is
    only refused where it plainly shows the clear images in another range.
    """
    clear, restored = clear.detach(), restored.detach()
    low, high = clear.amin().item(), clear.amax().item()
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise ShapeError(f"clear images must be in [0, 1], found {low:.4g} to {high:.4g}{_guess(low, high)}")
    plain = (restored - clear).abs().mean().item()
    for name, scale, offset, remedy in _OTHER_RANGES:
        moved = scale * clear + offset
        distance = (restored - moved).abs().mean().item()
        # Half of what a constant image would be away from it: an untrained network's output is often nearly constant.
        spread = (moved - moved.mean()).abs().mean().item()
        if distance < min(plain, spread / 2):
            raise ShapeError(f"restored images must be in [0, 1] or near it; they look like {name}, so {remedy}")


def _guess(low: float, high: float) -> str:
    """Tail of a message: what images of this range may be."""
    if high > 2:
        name, _, _, remedy = _OTHER_RANGES[0]
    elif low < -_TOLERANCE:
        name, _, _, remedy = _OTHER_RANGES[1]
    else:
        return "; are they a clipped and correctly scaled target?"
    return f"; they look like {name}, so {remedy}"
