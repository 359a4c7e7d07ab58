"""Loss of resolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import MinLen

from d2sm_plugin.degradations.chain import Image
from d2sm_plugin.degradations.ranges import FloatRange, read_range
from d2sm_plugin.degradations.resizing import INTERPOLATIONS, USUAL, Interpolation, draw_interpolation, resized
from d2sm_plugin.errors import DataError, OptionError, suggest
from d2sm_plugin.registry import DEGRADATION_REGISTRY, register

_MOST = 16
_MOST_PIXELS = 1 << 26  # of an image that grows


@register(DEGRADATION_REGISTRY)
class Downscale:
    """Resizing by a factor.

    The steps after it see the smaller image. A chain whose image ends in another size than the network's input is
    resized to that by the dataset, so that ``scale: 1`` gives a blurred image of the clean one's size.

    Args:
        factor: on height and width, 1/16 to 16: 0.25 makes them a quarter; a number, or [lowest, highest].
        interpolation: names of which one is drawn for each image; only ``area`` averages the pixels it shrinks.
        back: enlarge the image to its size before at once, by one of them again.
    """

    def __init__(
        self,
        factor: FloatRange = (0.25, 1.0),
        interpolation: Annotated[Sequence[Interpolation], MinLen(1)] = USUAL,
        back: bool = False,
    ) -> None:
        self.factor = read_range(factor, "Downscale.factor", 1 / _MOST, _MOST)
        for name in interpolation:
            if name not in INTERPOLATIONS:
                raise OptionError(f"Downscale.interpolation: '{name}' is unknown{suggest(name, INTERPOLATIONS)}")
        self.interpolation, self.back = tuple(interpolation), back

    def __call__(self, image: Image, generator: np.random.Generator) -> Image:
        """Resize an image (H, W, C)."""
        factor = self.factor.draw(generator)
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        if height * width > _MOST_PIXELS:
            raise DataError(f"the image would have {height * width:,} pixels; lower Downscale.factor {factor:g}")
        small = resized(image, (height, width), draw_interpolation(generator, self.interpolation))
        if not self.back:
            return small
        return resized(small, image.shape[:2], draw_interpolation(generator, self.interpolation))
