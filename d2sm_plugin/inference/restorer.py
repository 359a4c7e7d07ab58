"""Restoring a picture with a network: channels, noise level, transparency, bit depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from d2sm_plugin.archs.interface import network_inputs
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.inference.noise_level import ESTIMATE, check_estimator, estimate_noise_level
from d2sm_plugin.inference.picture_files import Picture
from d2sm_plugin.models.restore import restore_batch


@dataclass
class PictureRestorer:
    """Restores pictures, one by one.

    Grey pictures go through a colour network as three equal channels, of which the mean is kept; colour pictures go
    through a grey network channel by channel. Transparency is passed on as it is, resized where the network enlarges.

    Attributes:
        network: on the device that does the work. Channels are taken from its ``num_in_ch``, 3 where it has none.
        sigma: noise level (0 to 255), ``"estimate"``, or None for a network that does not ask for it.
        tile: side of the tiles in pixels, or None for whole pictures.
        tile_overlap: context on each inner side of a tile; None as the network declares.
        amp: ``"bf16"``, ``"fp16"`` or None.

    Raises:
        OptionError: when ``sigma`` is missing or not asked for, or the network takes entries that pictures lack.
        DependencyError: when the noise level is to be estimated and cannot be.
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
            return min(255.0, 255 * estimate_noise_level(picture.pixels.astype(np.float32) / picture.white))
        return float(self.sigma)

    def restore(self, picture: Picture, level: float | None) -> Picture:
        """Return the restored picture, of the same kind as the given one (grey or colour, depth, transparency).

        Args:
            picture: to be restored.
            level: its :meth:`noise_level`.

        Raises:
            DataError: when the network returns values that are no numbers, or memory runs out.
        """
        lq = self._to_images(picture.pixels.astype(np.float32) / picture.white)
        batch = {"lq": lq.to(self.device)}
        if level is not None:
            batch["sigma"] = lq.new_full((len(lq), 1, 1, 1), level / 255).to(self.device)
        try:
            restored = restore_batch(self.network, batch, self.tile, self.tile_overlap, self.amp).cpu()
        except torch.cuda.OutOfMemoryError as error:
            raise DataError(
                f"the device's memory does not suffice for {tuple(lq.shape)}; give a smaller --tile"
            ) from error
        if not restored.isfinite().all():
            raise DataError(f"{type(self.network).__name__} returned values that are no numbers; is it well trained?")
        pixels = self._to_pixels(restored, grey=picture.pixels.shape[-1] == 1)
        # In double precision: 65535 steps are close to what single precision resolves.
        values = np.rint(pixels.astype(np.float64).clip(0, 1) * picture.white).astype(picture.pixels.dtype)
        return Picture(values, _resized(picture.alpha, values.shape[:2]), picture.profile)

    def _to_images(self, pixels: NDArray[np.float32]) -> Tensor:
        planes = torch.from_numpy(pixels).permute(2, 0, 1)
        if self.channels == 1:
            return planes[:, None].contiguous()  # every channel an image of its own
        return planes.expand(self.channels, -1, -1)[None].contiguous()

    def _to_pixels(self, restored: Tensor, grey: bool) -> NDArray[np.float32]:
        planes = restored[:, 0] if self.channels == 1 else restored[0]
        if grey:
            planes = planes.mean(dim=0, keepdim=True)
        return planes.permute(1, 2, 0).numpy()


def _resized(alpha: NDArray | None, size: tuple[int, int]) -> NDArray | None:
    if alpha is None or alpha.shape == size:
        return alpha
    return cv2.resize(alpha, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
