"""Image conventions of the networks for faces: the colour they subtract, and a check of sizes."""

from __future__ import annotations

from torch import Tensor

from d2sm_plugin.errors import ShapeError

#: RGB colour, in [0, 1], that DICNet and its companions subtract from their images; there is no scaling.
FACE_MEAN = (0.509, 0.424, 0.378)


def check_multiple(images: Tensor, multiple: int, network: str) -> None:
    """Check the size of images that cannot be padded, because a face network's layers see the whole picture.

    Raises:
        ShapeError: when height or width of ``images`` (B, C, H, W) is no multiple of ``multiple``.
    """
    height, width = images.shape[-2:]
    if height % multiple or width % multiple:
        raise ShapeError(
            f"{network}: height and width must be multiples of {multiple}, got {height}x{width}; crop or resize the "
            f"faces (d2sm prepare faces does)"
        )
