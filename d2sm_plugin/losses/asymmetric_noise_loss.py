"""Asymmetric loss on an estimated noise map: too low an estimate costs more than too high a one."""

from __future__ import annotations

from torch import Tensor, nn

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.registry import LOSS_REGISTRY, register


@register(LOSS_REGISTRY)
class AsymmetricNoiseLoss(nn.Module):
    """Asymmetric loss of CBDNet (Guo et al.: "Toward convolutional blind denoising of real photographs", CVPR 2019).

    With the error ``e = noise_map - sigma`` of every value, the mean over all values of
    ``|alpha - [e < 0]| * e**2``: weight ``1 - alpha`` where the noise is under-estimated and ``alpha`` where it is
    over-estimated. With ``alpha`` below 1/2 under-estimation costs more, because a non-blind denoiser told too low a
    level leaves noise behind. The paper's weight for this loss is 0.5 beside the error of the restored image; it takes
    sums where this module takes means, over equally many values in both.

    The common PyTorch port of CBDNet has the two weights exchanged; a checkpoint trained with it has learned to
    prefer too low an estimate.

    Args:
        alpha: weight of over-estimation, 0 < alpha < 0.5.
        loss_weight: factor on the result.

    Raises:
        OptionError: for ``alpha`` out of range.
    """

    takes = ("noise_map", "sigma")

    def __init__(self, alpha: float = 0.3, loss_weight: Weight = 1.0) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise OptionError(f"AsymmetricNoiseLoss: alpha is {alpha}, expected a number between 0 and 0.5")
        self.alpha = alpha
        self.loss_weight = loss_weight

    def forward(self, noise_map: Tensor, sigma: Tensor) -> Tensor:
        """Compare an estimated noise map with the true noise level.

        Args:
            noise_map: estimate (B, C, H, W), noise level / 255.
            sigma: truth in the same unit: one level per image (B, 1, 1, 1), or a map that broadcasts to ``noise_map``.

        Returns:
            Scalar, times ``loss_weight``.

        Raises:
            ShapeError: when ``sigma`` does not broadcast to the shape of ``noise_map``.
        """
        fits = sigma.ndim == noise_map.ndim and all(
            side in (1, wanted) for side, wanted in zip(sigma.shape, noise_map.shape, strict=True)
        )
        if not fits or sigma.shape[0] != noise_map.shape[0]:
            raise ShapeError(
                f"AsymmetricNoiseLoss: expected sigma of shape ({noise_map.shape[0]}, 1, 1, 1) or "
                f"{tuple(noise_map.shape)} like the noise map, got {tuple(sigma.shape)}"
            )
        error = noise_map - sigma
        weight = (self.alpha - (error < 0).to(error.dtype)).abs()
        return self.loss_weight * (weight * error.square()).mean()
