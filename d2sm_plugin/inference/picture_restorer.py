"""Restoring a picture with a network: channels, noise level, transparency, bit depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from d2sm_plugin.archs.interface import network_inputs
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.inference.noise_level import ESTIMATE, check_estimator, estimate_noise_level
from d2sm_plugin.inference.picture_files import Picture
from d2sm_plugin.models.restore import restore_batch


@dataclass
class PictureRestorer:
    """Restorer of pictures, one by one.

    Grey pictures go through a colour network as three equal channels, of which the mean is kept; colour pictures go
    through a grey network channel by channel. Transparency is passed on as it is, resized where the network enlarges;
    colours that it hides do not show in the result.

    Attributes:
        network: on the device that does the work. Channels are taken from its ``num_in_ch``, 3 where it has none.
        sigma: noise level (0 to 255), ``"estimate"``, or None for a network that does not ask for it.
        tile: side of the tiles in pixels, or None for whole pictures.
        tile_overlap: context on each inner side of a tile; None as the network declares.
        amp: ``"bf16"``, ``"fp16"`` or None.

    Raises:
        OptionError: when ``sigma`` is missing or not asked for, or the network takes entries that pictures lack.
        DependencyError: when the noise level is to be estimated and cannot be.

    >>> import torch
    >>> from d2sm_plugin.inference.picture_files import Picture
    >>> restorer = PictureRestorer(torch.nn.Conv2d(3, 3, 3, padding=1))
    >>> restorer.restore(Picture(np.zeros((20, 30, 3), np.uint8)), level=None).pixels.shape
    (20, 30, 3)
    """

    network: nn.Module
    sigma: float | str | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    amp: str | None = None

    def __post_init__(self) -> None:
        name, entries = type(self.network).__name__, network_inputs(self.network)
        unknown = set(entries) - {"lq", "sigma"}
        if unknown:
            raise OptionError(f"{name} takes {', '.join(sorted(unknown))}, which a picture does not give")
        if "sigma" in entries and self.sigma is None:
            raise OptionError(
                f"{name} wants to be told the noise level: give --sigma a number (0 to 255) or 'estimate'"
            )
        if "sigma" not in entries and self.sigma is not None:
            raise OptionError(f"{name} is not told the noise level: leave --sigma out")
        if self.sigma == ESTIMATE:
            check_estimator()
        self.channels = getattr(self.network, "num_in_ch", 3)
        if self.channels not in (1, 3):
            raise OptionError(f"{name} takes images of {self.channels} channels; pictures have 1 or 3")
        self.device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))

    def noise_level(self, picture: Picture) -> float | None:
        """Return the noise level (0 to 255) that the network is told for a picture; None where it is not told."""
        if self.sigma is None:
            return None
        if self.sigma == ESTIMATE:
            visible = _with_visible_colours(picture).astype(np.float32)
            return min(255.0, 255 * estimate_noise_level(visible / picture.white))
        return float(self.sigma)

    def restore(self, picture: Picture, level: float | None) -> Picture:
        """Return the restored picture, of the same kind as the given one (grey or colour, depth, transparency).

        With tiles, only a tile is ever held as floats; a large picture takes the memory of its own pixels and of the
        result's.

        Args:
            picture: to be restored.
            level: its :meth:`noise_level`.

        Raises:
            DataError: when the network returns values that are no numbers, or memory runs out.
            ShapeError: when the network fails on pictures of this size.
        """
        grey, white = picture.pixels.shape[-1] == 1, picture.white
        images = self._to_images(_with_visible_colours(picture))
        batch = {"lq": images}
        if level is not None:
            batch["sigma"] = torch.full((len(images), 1, 1, 1), level / 255, device=self.device)

        def to_network(pixels: Tensor) -> Tensor:
            return pixels.to(self.device).float().div(white)

        def to_pixels(restored: Tensor) -> Tensor:
            if not restored.isfinite().all():
                raise DataError(f"{type(self.network).__name__} returned values that are no numbers; is it trained?")
            if grey:
                restored = restored.mean(dim=1, keepdim=True)
            # In double precision: 65535 steps are close to what single precision resolves.
            return restored.cpu().double().clamp(0, 1).mul(white).round().to(images.dtype)

        try:
            restored = restore_batch(
                self.network, batch, self.tile, self.tile_overlap, self.amp, before=to_network, after=to_pixels
            )
        except torch.OutOfMemoryError as error:
            size = "x".join(map(str, picture.pixels.shape[:2]))
            raise DataError(f"the device's memory does not suffice for {size} pixels; give a smaller --tile") from error
        planes = restored[:, 0] if self.channels == 1 else restored[0]
        pixels = planes.permute(1, 2, 0).contiguous().numpy().astype(picture.pixels.dtype, copy=False)
        return Picture(pixels, _resized(picture.alpha, pixels.shape[:2]), picture.profile)

    def _to_images(self, pixels: NDArray[Any]) -> Tensor:
        deep = pixels.dtype == np.uint16  # of which torch knows little
        if deep or not pixels.flags.writeable:  # torch warns of arrays that it may not write to, such as PIL's
            pixels = pixels.astype(np.int32 if deep else pixels.dtype)
        planes = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.channels == 1:
            return planes[:, None]  # every channel an image of its own
        return planes.expand(self.channels, -1, -1)[None]


def _with_visible_colours(picture: Picture) -> NDArray[Any]:
    """Pixels with the nearest visible colour in place of what nobody sees, which would else bleed into the edges."""
    if picture.alpha is None or picture.alpha.all() or not picture.alpha.any():
        return picture.pixels
    rows, columns = distance_transform_edt(picture.alpha == 0, return_distances=False, return_indices=True)
    return picture.pixels[rows, columns]


def _resized(alpha: NDArray[Any] | None, size: tuple[int, int]) -> NDArray[Any] | None:
    if alpha is None or alpha.shape == size:
        return alpha
    return cv2.resize(alpha, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
