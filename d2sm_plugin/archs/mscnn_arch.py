"""MSCNN, which estimates the transmission of haze at two scales and inverts the haze model (a row of Table 3).

Source: Ren et al., "Single Image Dehazing via Multi-Scale Convolutional Neural Networks", ECCV 2016; airlight,
post-processing and recovery as in the published MATLAB code.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2sm_plugin.archs.blocks import check_images, resize_bicubic
from d2sm_plugin.archs.guided_filter import guided_filter
from d2sm_plugin.archs.mscnn_weights import read_mscnn_weights
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.registry import ARCH_REGISTRY, register

VARIANTS = ("released", "paper")
#: Side of the window of the minimum filter from which the airlight is read, in pixels.
_AIRLIGHT_WINDOW = 15
#: Local response normalisation behind the first two units: MatConvNet's alpha is for one channel, torch's for all.
_NORMALISE = (5, 5 * 2e-5, 0.75, 1.0)  # size, alpha, beta, k
#: ITU-R BT.601; the published code rounds the weights of the image to four digits.
_LUMA = (0.2989, 0.5870, 0.1140)
_AIRLIGHT_LUMA = (0.299, 0.587, 0.114)
#: Post-processing: weight of the estimate against the image's contrast to the airlight, guided filter, bounds.
_BALANCE, _EPS = 0.1, 0.04
_T_MIN, _T_MAX = 0.1, 0.9


class TransmissionNet(nn.Module):
    """Three units of convolution, ReLU, pooling and enlarging; then a sigmoid of a weighted sum of the channels.

    Args:
        widths: channels of the image and behind every unit's convolution.
        kernels: side of every convolution.
    """

    def __init__(self, widths: tuple[int, ...], kernels: tuple[int, ...]) -> None:
        super().__init__()
        sizes = zip(pairwise(widths), kernels, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(before, after, side, padding=side // 2) for (before, after), side in sizes)
        self.convs.append(nn.Conv2d(widths[-1], 1, 1))

    def forward(self, images: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the transmission (B, 1, h, w) in (0, 1); odd sides lose their last row or column.

        Args:
            images: (B, 3, H, W).
            known: (B, 1, H, W); takes the place of the first convolution's last channel, before the ReLU.
        """
        *units, combine = self.convs
        feature = units[0](images)
        if known is not None:
            feature = torch.cat((feature[:, :-1], known), dim=1)
        feature = _enlarge(feature)
        for conv in units[1:]:
            feature = _enlarge(conv(F.local_response_norm(feature, *_NORMALISE)))
        return combine(feature).sigmoid()


def _enlarge(feature: Tensor) -> Tensor:
    return F.interpolate(F.max_pool2d(feature.relu(), 2), scale_factor=2, mode="nearest")


@register(ARCH_REGISTRY)
class MSCNN(nn.Module):
    """Multi-scale CNN: a coarse and a fine network estimate the transmission t, and the haze model gives the image.

    The published weights have 6,321 + 2,114 parameters. They are two files, ``MSCNNDehazing_CL.mat`` and
    ``MSCNNDehazing_FL.mat``, in one folder; either is given as the checkpoint.

    The airlight is the brightest value of each channel behind a 15x15 minimum filter. The estimated transmission is
    corrected where the image is far from the airlight, smoothed by a guided filter, and bounded to [0.1, 0.9]; then
    ``J = (I - A) / t + A``. All of this is part of the network, so it can be trained by any objective on restored
    images, or by transmission maps. Airlight and window depend on the whole image: tiles give other results.

    Args:
        variant: ``"released"``: the fine network works alone, as in the published code, where the coarse map is put in
            only if its size differs, which it never does. ``"paper"``: the coarse map is the sixth channel of the fine
            network's first feature (section 3.2).
        gamma: exponent of the transmission; above 1 takes off more haze.

    Raises:
        OptionError: for an unknown variant, or a gamma that is not positive.
    """

    inputs = ("lq",)
    size_multiple = 2
    published_readers: ClassVar = {".mat": read_mscnn_weights}

    def __init__(self, variant: str = "released", gamma: float = 1.0) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise OptionError(f"MSCNN variant: no variant is called '{variant}'{suggest(variant, VARIANTS)}")
        if gamma <= 0:
            raise OptionError(f"MSCNN gamma: expected a positive number, got {gamma}")
        self.variant, self.gamma = variant, gamma
        self.coarse = TransmissionNet((3, 5, 5, 10), (11, 9, 7))
        self.fine = TransmissionNet((3, 6, 5, 10), (7, 5, 3))

    def forward(self, lq: Tensor) -> dict[str, Tensor]:
        """Remove haze.

        Args:
            lq: hazy images (B, 3, H, W), RGB, [0, 1], H and W at least 2.

        Returns:
            ``"restored"`` (B, 3, H, W), not clamped; ``"transmission"`` and ``"coarse_transmission"``, what the two
            networks estimate, before the post-processing, in three equal channels (B, 3, H, W) as of a picture.

        Raises:
            ShapeError: for images that do not have three channels, or are smaller.
        """
        check_images(lq, 3, "MSCNN")
        if min(lq.shape[-2:]) < 2:
            raise ShapeError(f"MSCNN: expected images of at least 2x2 pixels, got {tuple(lq.shape[-2:])}")
        airlight = estimate_airlight(lq)
        balanced = lq / airlight
        coarse = resize_bicubic(self.coarse(balanced), lq.shape[-2:])
        fine = self.fine(balanced, coarse if self.variant == "paper" else None)
        fine = resize_bicubic(fine, lq.shape[-2:])
        refined = refine_transmission(fine, lq, airlight) ** self.gamma
        return {
            "restored": (lq - airlight) / refined + airlight,
            "transmission": fine.expand(-1, 3, -1, -1),
            "coarse_transmission": coarse.expand(-1, 3, -1, -1),
        }


def estimate_airlight(hazy: Tensor) -> Tensor:
    """Return each channel's brightest local minimum (B, 3, 1, 1), at least 1/255, of images (B, 3, H, W)."""
    minima = -F.max_pool2d(-hazy, _AIRLIGHT_WINDOW, stride=1, padding=_AIRLIGHT_WINDOW // 2)
    return minima.amax((2, 3), keepdim=True).clamp(min=1 / 255)


def refine_transmission(transmission: Tensor, hazy: Tensor, airlight: Tensor) -> Tensor:
    """Return the post-processed transmission (B, 1, H, W) in [0.1, 0.9].

    Where the image differs from the airlight there is little haze, so the reciprocal of t is drawn to 1 there; it is
    then smoothed along the edges of the image.
    """
    grey = _luma(hazy, _LUMA)
    contrast = (grey - _luma(airlight, _AIRLIGHT_LUMA)) ** 2
    reciprocal = (contrast + _BALANCE / transmission.clamp(min=1e-4)) / (contrast + _BALANCE)
    radius = min(hazy.shape[-2:]) // 8
    smooth = guided_filter(grey, reciprocal, radius, _EPS)
    return smooth.clamp(1 / _T_MAX, 1 / _T_MIN).reciprocal()


def _luma(images: Tensor, weights: tuple[float, float, float]) -> Tensor:
    return (images * images.new_tensor(weights).view(3, 1, 1)).sum(1, keepdim=True)
