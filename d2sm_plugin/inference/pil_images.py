"""PIL images as pictures, and back."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.inference.picture_files import Picture, plain_picture

_READ = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def to_picture(image: Image.Image) -> Picture:
    """Return a PIL image as a picture, upright as its EXIF orientation says.

    Raises:
        ShapeError: for anything but a PIL image of 8 bits a channel.
    """
    if not isinstance(image, Image.Image):
        raise ShapeError(f"expected a tensor, an array or a PIL image, got {type(image).__name__}")
    if image.mode not in _READ:
        raise ShapeError(f"a PIL image of mode {image.mode}; expected one of {', '.join(_READ)}, or an array")
    return plain_picture(ImageOps.exif_transpose(image), orientation=1)


def from_picture(picture: Picture) -> Image.Image:
    """Return a picture of 8 bits as a PIL image: grey or RGB, with its transparency and colour profile."""
    pixels = picture.pixels
    if picture.alpha is not None:
        pixels = np.concatenate((pixels, picture.alpha[..., None]), axis=-1)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if picture.profile is not None:
        image.info["icc_profile"] = picture.profile
    return image
