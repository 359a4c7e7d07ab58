"""Compression as JPEG files have it."""

from __future__ import annotations

import cv2
import numpy as np

from d2sm_plugin.degradations.chain import Image
from d2sm_plugin.degradations.ranges import IntRange, read_range
from d2sm_plugin.registry import DEGRADATION_REGISTRY, register


@register(DEGRADATION_REGISTRY)
class JPEG:
    """Writing as a JPEG file and reading it back, by OpenCV: 8 bits, colours at half the resolution.

    Values beyond [0, 1] are cut off.

    Args:
        quality: 1 to 100: a number, or [lowest, highest], every whole number between as likely.
    """

    def __init__(self, quality: IntRange = (60, 95)) -> None:
        self.quality = read_range(quality, "JPEG.quality", 1, 100)

    def __call__(self, image: Image, generator: np.random.Generator) -> Image:
        """Compress an image (H, W, C) of one channel or three."""
        pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)[..., ::-1]  # OpenCV has blue first
        quality = self.quality.draw_whole(generator)
        _, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels), [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
        assert decoded is not None  # what OpenCV has just written
        return decoded.reshape(image.shape)[..., ::-1].astype(np.float32) / np.float32(255)
