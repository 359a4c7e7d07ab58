"""Total variation of an estimated noise map."""

from __future__ import annotations

from torch import Tensor, nn

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.errors import ShapeError
from d2sm_plugin.registry import LOSS_REGISTRY, register


@register(LOSS_REGISTRY)
class TVLoss(nn.Module):
    """Squared total variation of CBDNet (Guo et al., CVPR 2019): a noise map should be smooth.

    For every image, the mean over all neighbours of the squared differences between rows, plus the mean of those
    between columns; then the mean over the images. Each mean divides by the number of differences, C (H-1) W and
    C H (W-1), so the value depends neither on the size of the images nor on the batch.

    Two other conventions are in use. The paper writes plain sums of the squared differences, beside plain sums in its
    two other objectives; with means in all three, the published weights (1 for the restored image, 0.5 for
    :class:`~d2sm_plugin.losses.asymmetric_noise_loss.AsymmetricNoiseLoss`, 0.05 for this one) keep their meaning. The
    common PyTorch port takes means in the other two, but here sums over the whole batch and divides by the counts of a
    single image, which is B times this value: its 0.05 at its batch of 32 is a ``loss_weight`` of 1.6.

    Args:
        loss_weight: factor on the result.
    """

    takes = ("noise_map",)

    def __init__(self, loss_weight: Weight = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, noise_map: Tensor) -> Tensor:
        """Return the variation of noise maps (B, C, H, W), H and W at least 2: a scalar, times ``loss_weight``.

        Raises:
            ShapeError: for another shape.
        """
        if noise_map.ndim != 4 or min(noise_map.shape[-2:]) < 2:
            raise ShapeError(
                f"TVLoss: expected noise maps of shape (B, C, H, W) with H and W at least 2, got "
                f"{tuple(noise_map.shape)}"
            )
        rows = noise_map.diff(dim=-2).square().mean()
        columns = noise_map.diff(dim=-1).square().mean()
        return self.loss_weight * (rows + columns)
