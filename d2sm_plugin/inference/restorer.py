"""Restoring images in Python: from a weight file, or from a hub, in three lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from d2sm_plugin.archs.interface import network_inputs
from d2sm_plugin.errors import DataError, OptionError, ShapeError
from d2sm_plugin.files import whole_file
from d2sm_plugin.inference.described_network import build_network, network_block
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.weight_files import Description, write_tensors

if TYPE_CHECKING:
    from PIL import Image

    from d2sm_plugin.inference.picture_files import Picture

Kind = TypeVar("Kind", Tensor, NDArray[np.generic], "Image.Image")


@dataclass
class Restorer:
    """A trained network that restores tensors, arrays and PIL images, each into its own kind.

    Attributes:
        network: any network that follows :mod:`d2sm_plugin.archs.interface`, on the device that does the work.
        sigma: noise level (0 to 255) that a network such as FFDNet is told; ``"estimate"`` for arrays and PIL images;
            None for other networks. A call may say another.
        tile: side of the tiles in pixels, for large images; None for whole images.
        tile_overlap: context on each inner side of a tile; None as far as the network sees.
        amp: ``"bf16"`` or ``"fp16"`` for half precision where that is safe; None for full precision.
        about: description of the network, which :meth:`save` writes.

    >>> from d2sm_plugin.archs.ffdnet_arch import FFDNet
    >>> restorer = Restorer(FFDNet(num_feat=8, num_layers=3), sigma=25)
    >>> restorer(torch.rand(3, 40, 50)).shape
    torch.Size([3, 40, 50])
    >>> restorer(np.zeros((40, 50), np.uint8), sigma=10).shape
    (40, 50)
    """

    network: nn.Module
    sigma: float | str | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    amp: str | None = None
    about: Description | None = None

    def __post_init__(self) -> None:
        self.network.eval()
        self.device = next((p.device for p in self.network.parameters()), torch.device("cpu"))

    @classmethod
    def from_checkpoint(
        cls,
        source: str | Path,
        network: str | Mapping[str, Any] | None = None,
        key: str | None = None,
        device: str | torch.device = "auto",
        **options: Any,
    ) -> Restorer:
        """Return a restorer with the network of a weight file.

        Args:
            source: path or URL of the weights.
            network: name of the network, or its block ``{"type": NAME, **arguments}``, for files that do not say it
                themselves, such as published ones.
            key: entry of the file to use, for example ``"params"``; None takes the moving average where there is one.
            device: ``"auto"`` takes a GPU where there is one.
            options: the other attributes: ``sigma``, ``tile``, ``tile_overlap``, ``amp``.

        Raises:
            CheckpointError: when the file cannot be read or does not fit.
            OptionError: when nobody says which network it is, or it cannot be built.
        """
        block = network_block(source, {"type": network} if isinstance(network, str) else network)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(build_network(block, source, key).to(device), about=Description(block), **options)

    @classmethod
    def from_hub(
        cls, repository: str, file: str = "model.safetensors", revision: str | None = None, **options: Any
    ) -> Restorer:
        """Return a restorer with weights from the Hugging Face hub; they are downloaded once.

        Args:
            repository: ``"user/name"``.
            file: name of the weight file there.
            revision: branch, tag or commit; None for the newest.
            options: as of :meth:`from_checkpoint`.

        Raises:
            CheckpointError: when it cannot be had, or as :meth:`from_checkpoint`.
        """
        from d2sm_plugin.inference.hub import download

        return cls.from_checkpoint(download(repository, file, revision), **options)

    def push_to_hub(self, repository: str, file: str = "model.safetensors", private: bool = False) -> str:
        """Upload the network to the Hugging Face hub, into a repository that is made if need be, and return its URL.

        Raises:
            CheckpointError: when it cannot be uploaded, for example for want of a login (``hf auth login``).
            OptionError: when the block of the network is not known.
        """
        from d2sm_plugin.inference.hub import upload

        return upload(self.save, repository, file, private)

    def save(self, path: str | Path) -> None:
        """Write the weights with the description of the network; ``.safetensors`` or ``.pth``.

        Raises:
            OptionError: when the block of the network is not known, as :attr:`about` is None; or for another ending.
            DataError: when the file cannot be written.
        """
        path = Path(path)
        if self.about is None:
            raise OptionError(
                f"{path}: nobody would know which network it is; give Restorer "
                f"about=Description({{'type': '{type(self.network).__name__}', ...}})"
            )
        if path.suffix not in (".safetensors", ".pth"):
            raise OptionError(f"{path}: weights are written as .safetensors or .pth")
        with whole_file(path) as file:
            write_tensors(file, path.suffix, {"params": self.network.state_dict()}, self.about)

    def __call__(self, image: Kind, sigma: float | str | None = None) -> Kind:
        """Return the restored image, of the kind of the given one.

        Args:
            image: a tensor (C, H, W) or (B, C, H, W) in [0, 1]; an array (H, W), (H, W, 1) or (H, W, 3) of RGB, of
                uint8, uint16, or floats in [0, 1]; or a PIL image, with its transparency and colour profile.
            sigma: noise level (0 to 255) instead of :attr:`sigma`.

        Returns:
            Tensors and arrays of floats are float32, in [0, 1]; a network for super-resolution enlarges.

        Raises:
            ShapeError: for other shapes, or when the network fails on images of this size.
            OptionError: when a noise level is missing, or not asked for.
            DataError: when the network returns values that are no numbers.
        """
        level = self.sigma if sigma is None else sigma
        if isinstance(image, Tensor):
            return self._tensor(image, level).clamp(0, 1)
        if isinstance(image, np.ndarray):
            if np.issubdtype(image.dtype, np.floating):
                return self._floats(image, level)
            return self._integers(image, level)
        from d2sm_plugin.inference.pil_images import from_picture, to_picture

        return from_picture(self._picture(to_picture(image), level))

    def _tensor(self, image: Tensor, sigma: float | str | None) -> Tensor:
        if image.ndim not in (3, 4) or not image.is_floating_point():
            raise ShapeError(
                f"expected a tensor (C, H, W) or (B, C, H, W) of floats in [0, 1], got {tuple(image.shape)} of "
                f"{str(image.dtype).removeprefix('torch.')}"
            )
        images = (image if image.ndim == 4 else image[None]).to(self.device, torch.float32)
        batch = {"lq": images}
        name, told = type(self.network).__name__, "sigma" in network_inputs(self.network)
        if told != (sigma is not None):
            raise OptionError(f"{name} {'wants to be told the noise level: give' if told else 'is not told any'} sigma")
        if isinstance(sigma, str):
            raise OptionError(f"sigma '{sigma}': of tensors the noise level is not estimated; give a number")
        if sigma is not None:
            batch["sigma"] = torch.full((len(images), 1, 1, 1), sigma / 255, device=self.device)
        restored = restore_batch(self.network, batch, self.tile, self.tile_overlap, self.amp, after=_checked)
        return (restored if image.ndim == 4 else restored[0]).to(image.device)

    def _floats(self, image: NDArray[np.generic], sigma: float | str | None) -> NDArray[np.generic]:
        planes = _with_channels(image)
        channels = getattr(self.network, "num_in_ch", 3)
        tensor = torch.from_numpy(np.ascontiguousarray(planes)).permute(2, 0, 1)
        if channels != len(tensor):
            grey = len(tensor) == 1
            tensor = tensor.expand(channels, -1, -1) if grey else tensor[:, None]
            restored = self._tensor(tensor, sigma)
            restored = restored.mean(dim=0, keepdim=True) if grey else restored[:, 0]
        else:
            restored = self._tensor(tensor, sigma)
        pixels = restored.clamp(0, 1).permute(1, 2, 0).contiguous().numpy()
        return pixels[..., 0] if image.ndim == 2 else pixels

    def _integers(self, image: NDArray[np.generic], sigma: float | str | None) -> NDArray[np.generic]:
        from d2sm_plugin.inference.picture_files import Picture

        if image.dtype not in (np.uint8, np.uint16):
            raise ShapeError(f"expected an array of uint8, uint16 or floats, got {image.dtype}")
        pixels = self._picture(Picture(np.ascontiguousarray(_with_channels(image))), sigma).pixels
        return pixels[..., 0] if image.ndim == 2 else pixels

    def _picture(self, picture: Picture, sigma: float | str | None) -> Picture:
        from d2sm_plugin.inference.picture_restorer import PictureRestorer

        restorer = PictureRestorer(self.network, sigma, self.tile, self.tile_overlap, self.amp)
        return restorer.restore(picture, restorer.noise_level(picture))


def _with_channels(image: NDArray[np.generic]) -> NDArray[np.generic]:
    planes = image[..., None] if image.ndim == 2 else image
    if planes.ndim != 3 or planes.shape[-1] not in (1, 3) or 0 in planes.shape:
        raise ShapeError(f"expected an array (H, W), (H, W, 1) or (H, W, 3), got {image.shape}")
    return planes


def _checked(restored: Tensor) -> Tensor:
    if not restored.isfinite().all():
        raise DataError("the network returned values that are no numbers; is it trained?")
    return restored
