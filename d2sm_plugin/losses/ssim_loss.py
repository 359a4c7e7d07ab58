"""Structural similarity as an objective, at one scale and at five."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.extras import import_extra
from d2sm_plugin.losses.image_check import ImageCheck, check_shapes
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.precision import full_precision

_WINDOW = 11  # pixels, a Gaussian of standard deviation 1.5
_SIGMA = 1.5


class _StructuralSimilarity(nn.Module):
    """Base of both objectives.

    Args:
        loss_weight: factor on the result.

    Raises:
        DependencyError: without the package pytorch-msssim.
    """

    takes = ("restored", "gt")
    window: Tensor
    #: Name of the function in pytorch-msssim.
    function: str
    #: Smallest height and width of an image.
    least: int
    #: What to do about smaller images.
    remedy: str

    def __init__(self, loss_weight: Weight = 1.0) -> None:
        super().__init__()
        package = import_extra("pytorch_msssim", type(self).__name__)
        self._similarity = getattr(package, self.function)
        self.register_buffer("window", _gaussian(), persistent=False)  # the package would send it to the GPU every time
        self.loss_weight = loss_weight
        self._check = ImageCheck()

    def forward(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Return ``loss_weight * (1 - similarity)``, the mean over images and channels.

        Args:
            restored: images (B, C, H, W) in [0, 1], which they may leave a little.
            clear: images (B, C, H, W) in [0, 1]; constants.

        Raises:
            ShapeError: for images of wrong shape, too small, and, at the first call, of another value range.
        """
        check_shapes(restored, clear)
        height, width = restored.shape[-2:]
        if min(height, width) < self.least:
            raise ShapeError(
                f"{type(self).__name__}: images of {height}x{width} are too small, both sides must have at least "
                f"{self.least} pixels; {self.remedy}"
            )
        self._check(restored, clear)
        with full_precision(restored.device), _full_convolutions():
            similarity = self._similarity(
                _at_least_float(restored),
                _at_least_float(clear.detach()),
                data_range=1.0,
                win=self.window.expand(restored.shape[1], -1, -1, -1),
            )
        return self.loss_weight * (1 - similarity)


@register(LOSS_REGISTRY)
class SSIMLoss(_StructuralSimilarity):
    """One minus the mean structural similarity (Wang et al., IEEE TIP 2004).

    Local means, variances and the covariance are weighted by an 11x11 Gaussian of standard deviation 1.5, for each
    channel of RGB images in [0, 1] by itself, with C1 = 0.01**2 and C2 = 0.03**2, by the package pytorch-msssim. The
    window never leaves the image ("valid" convolution): positions within 5 pixels of the border have no value of their
    own. With zero padding, the other convention in use, the value of small crops differs visibly.

    The sign is that of a loss: 0 for equal images, up to 2. Some training codes minimise SSIM itself by mistake.

    Args:
        loss_weight: factor on the result.

    Raises:
        DependencyError: without the package pytorch-msssim.
    """

    function = "ssim"
    least = _WINDOW
    remedy = "set a larger datasets.train.gt_size"


@register(LOSS_REGISTRY)
class MSSSIMLoss(_StructuralSimilarity):
    """One minus the mean multi-scale structural similarity (Wang et al., Asilomar 2003).

    Five scales, each half as large as the one before, with the weights of the publication and the window and border
    convention of :class:`SSIMLoss`; negative terms count as 0. The smallest scale must hold a window, so images need
    more than 160 pixels on both sides.

    Args:
        loss_weight: factor on the result.

    Raises:
        DependencyError: without the package pytorch-msssim.
    """

    function = "ms_ssim"
    least = (_WINDOW - 1) * 2**4 + 1
    remedy = "set datasets.train.gt_size to 161 or more, or take SSIMLoss"


def _gaussian() -> Tensor:
    """The window along one side, (1, 1, 1, width), of sum 1."""
    offsets = torch.arange(_WINDOW, dtype=torch.float32) - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
    return (weights / weights.sum())[None, None, None]


def _at_least_float(images: Tensor) -> Tensor:
    return images if images.dtype == torch.float64 else images.float()


@contextmanager
def _full_convolutions() -> Iterator[None]:
    """Convolve without TF32, which cuDNN uses unless told otherwise: a variance is a difference of two large values."""
    backend = torch.backends.cudnn
    if hasattr(backend, "conv"):
        before = backend.conv.fp32_precision
        backend.conv.fp32_precision = "ieee"
        try:
            yield
        finally:
            backend.conv.fp32_precision = before
    else:  # torch before 2.9
        before = backend.allow_tf32
        backend.allow_tf32 = False
        try:
            yield
        finally:
            backend.allow_tf32 = before
