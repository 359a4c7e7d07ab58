"""From tensors to the 8-bit images that files hold and metrics measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2sm_plugin.errors import DataError


def check_numbers(images: Tensor, names: Sequence[str]) -> None:
    """Refuse images with values that are no numbers, which every later step would turn into some picture and score.

    Args:
        images: (B, C, H, W).
        names: of the images, for the message.

    Raises:
        DataError: naming the first such image.
    """
    sound = images.detach().isfinite().flatten(1).all(1)
    if not sound.all():
        name = names[int((~sound).nonzero()[0])]
        raise DataError(f"{name}: it holds values that are no numbers (NaN or infinity); is the network well trained?")


def to_uint8(image: Tensor) -> np.ndarray:
    """Return an image as 8-bit (H, W, 3) RGB, clipped to [0, 1] and rounded, as a saved picture holds it.

    Args:
        image: (3, H, W) or (1, H, W), nominally in [0, 1]; grey becomes three equal channels.

    Raises:
        DataError: for values that are no numbers, of which no picture can be made.
    """
    check_numbers(image[None], ["the image"])
    scaled = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    array = scaled.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)
