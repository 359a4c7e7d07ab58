"""From tensors to the 8-bit images that files hold and metrics measure."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_uint8(image: Tensor) -> np.ndarray:
    """Return an image as 8-bit (H, W, 3) RGB, clipped to [0, 1] and rounded, as a saved picture holds it.

    Args:
        image: (3, H, W) or (1, H, W), nominally in [0, 1]; grey becomes three equal channels.
    """
    scaled = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    array = scaled.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array)
