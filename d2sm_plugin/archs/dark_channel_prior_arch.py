"""The dark channel prior: removing haze without any training, the classical row of the paper's Table 3.

Source: He, Sun, Tang, "Single Image Haze Removal Using Dark Channel Prior", TPAMI 2011 (CVPR 2009); the transmission is
refined with the guided filter of He, Sun, Tang, "Guided Image Filtering", TPAMI 2013, instead of soft matting.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from d2sm_plugin.archs.blocks import check_images
from d2sm_plugin.archs.guided_filter import guided_filter
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.registry import ARCH_REGISTRY, register

Array = NDArray[np.float64]

#: Weights of R, G, B in the grey guide (ITU-R BT.601).
_GREY = np.array([0.299, 0.587, 0.114])


@register(ARCH_REGISTRY)
class DarkChannelPrior(nn.Module):
    """Dark channel prior as a network without parameters, for option files and suites; see :func:`dark_channel_prior`.

    Images are rounded to 8 bit first, as they are read from files. It depends on the whole image: tiles give other
    results. No gradient flows through it.
    """

    inputs = ("lq",)

    def __init__(self) -> None:  # without arguments; nn.Module's own takes any
        super().__init__()

    @torch.no_grad()
    def forward(self, lq: Tensor) -> Tensor:
        """Remove haze from images (B, 3, H, W), RGB, [0, 1]; returns the same shape, in [0, 1].

        Raises:
            ShapeError: for images that do not have three channels.
        """
        check_images(lq, 3, "DarkChannelPrior")
        images = (255 * lq.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        clear = np.stack([dark_channel_prior(image) for image in images])
        return torch.from_numpy(clear).permute(0, 3, 1, 2).to(lq)


def dark_channel_prior(
    image: NDArray[np.generic],
    patch: int = 15,
    omega: float = 0.95,
    brightest: float = 0.001,
    t_min: float = 0.1,
    radius: int = 60,
    eps: float = 1e-4,
) -> NDArray[np.float32]:
    """Remove haze from one image.

    The haze model is ``I = J·t + A·(1 − t)``. The airlight A is read off the haziest pixels, the transmission is
    ``t = 1 − omega · dark(I / A)``, and the clear image is ``J = (I − A) / max(t, t_min) + A``.

    Args:
        image: hazy image (H, W, 3), RGB; uint8, or floats in [0, 1].
        patch: side of the square over which the dark channel takes its minimum, in pixels, odd.
        omega: share of the haze that is removed; below 1, distant things keep some and look natural.
        brightest: share of the pixels, brightest in the dark channel, that the airlight is the mean of.
        t_min: lower bound of the transmission, against noise in dense haze.
        radius: of the guided filter's square window, in pixels.
        eps: regularisation of the guided filter, for a guide in [0, 1].

    Returns:
        Clear image (H, W, 3), float32, clipped to [0, 1].

    Raises:
        ShapeError: for anything but (H, W, 3).
        OptionError: for a parameter out of its range.
    """
    _check_parameters(patch, omega, brightest, t_min, radius, eps)
    hazy = _as_float(image)
    airlight = estimate_airlight(hazy, dark_channel(hazy, patch), brightest)
    transmission = 1 - omega * dark_channel(hazy / airlight, patch)
    guide = torch.from_numpy(hazy @ _GREY)
    transmission = guided_filter(guide, torch.from_numpy(transmission), radius, eps).numpy()
    clear = (hazy - airlight) / np.maximum(transmission, t_min)[..., None] + airlight
    return np.clip(clear, 0, 1).astype(np.float32)


def dark_channel(image: Array, patch: int) -> Array:
    """Return the minimum over the channels and over a square of side ``patch`` around each pixel.

    Args:
        image: (H, W, 3).
        patch: odd side of the square, in pixels; at the border only the part inside the image counts.

    Returns:
        (H, W).
    """
    import cv2  # the extra [train], which networks do not ask for

    return np.asarray(cv2.erode(image.min(axis=2), np.ones((patch, patch), np.uint8)), np.float64)


def estimate_airlight(image: Array, dark: Array, brightest: float) -> Array:
    """Return the mean colour of the pixels that are brightest in the dark channel.

    The publication takes the single most intense of these pixels; their mean is what most implementations use, as it
    does not follow one saturated pixel.

    Args:
        image: (H, W, 3) in [0, 1].
        dark: its dark channel (H, W).
        brightest: share of the pixels to take; at least one, and all that equal the last of them.

    Returns:
        (3,), at least 1/255 in each channel, so that an image may be divided by it.
    """
    count = max(1, round(brightest * dark.size))
    threshold = np.partition(dark, dark.size - count, axis=None)[-count]
    return np.maximum(image[dark >= threshold].mean(axis=0), 1 / 255)


def _as_float(image: NDArray[np.generic]) -> Array:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError(f"dark channel prior: expected an RGB image (H, W, 3), got {image.shape}")
    scale = 255 if image.dtype == np.uint8 else 1
    return image.astype(np.float64) / scale


def _check_parameters(patch: int, omega: float, brightest: float, t_min: float, radius: int, eps: float) -> None:
    if patch < 1 or patch % 2 == 0:
        raise OptionError(f"dark channel prior: patch must be odd and at least 1; got {patch}")
    if radius < 1 or eps <= 0:
        raise OptionError(f"dark channel prior: radius must be at least 1 and eps positive; got {radius} and {eps}")
    for name, value in (("omega", omega), ("brightest", brightest), ("t_min", t_min)):
        if not 0 < value <= 1:
            raise OptionError(f"dark channel prior: {name} must lie in (0, 1]; got {value}")
