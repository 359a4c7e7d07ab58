"""Synthetic haze on clear images whose depth is known.

The model is Koschmieder's law, on which the benchmarks of dehazing are built as well: ``I = J·t + A·(1 − t)`` with
the transmission ``t = exp(−beta · depth)`` (Narasimhan and Nayar, "Vision and the Atmosphere", IJCV 2002; used by
RESIDE: Li et al., "Benchmarking Single Image Dehazing and Beyond", TIP 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.data import stereo_motorcycle

from d2sm_plugin.errors import DataError, OptionError

Array = NDArray[np.float32]

# Calibration of scikit-image's stereo pair, as its documentation gives it: pixels, pixels, metres.
_FOCAL_LENGTH = 994.978
_PRINCIPAL_POINT_SHIFT = 31.086
_BASELINE = 0.193001


@dataclass(frozen=True)
class HazyImage:
    """A hazy image and how it was made.

    Attributes:
        image: (H, W, 3) float32 RGB in [0, 1].
        transmission: (H, W) float32 in [0, 1]; the share of the scene's light that arrives.
        beta: scattering coefficient, in 1 / unit of the depth.
        airlight: (3,) float32 RGB in [0, 1].
    """

    image: Array
    transmission: Array
    beta: float
    airlight: Array


@dataclass(frozen=True)
class HazeRange:
    """Ranges that random haze is drawn from, uniformly.

    Attributes:
        beta: lowest and highest scattering coefficient, in 1/metre. Visibility (5 % contrast left) is ``3 / beta``.
        airlight: lowest and highest brightness of the airlight, [0, 1].
        tint: how far each channel of the airlight may differ from that brightness, to either side; 0 is grey haze.
    """

    beta: tuple[float, float]
    airlight: tuple[float, float] = (0.7, 1.0)
    tint: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges; :class:`OptionError` names the one that is wrong."""
        if not 0 <= self.beta[0] <= self.beta[1] < np.inf:
            raise OptionError(f"haze: beta must be a range of numbers >= 0, lowest first; got {self.beta}")
        if not 0 <= self.airlight[0] <= self.airlight[1] <= 1:
            raise OptionError(f"haze: airlight must be a range within [0, 1], lowest first; got {self.airlight}")
        if not 0 <= self.tint <= 1:
            raise OptionError(f"haze: tint must lie in [0, 1]; got {self.tint}")


#: Rooms, with the ranges of RESIDE's indoor set.
INDOOR = HazeRange(beta=(0.6, 1.8))
#: Streets: visibility from 300 m down to 60 m.
STREET = HazeRange(beta=(0.01, 0.05))


def add_haze(clear: NDArray[np.generic], depth: NDArray[np.floating], beta: float, airlight: object) -> HazyImage:
    """Put haze of known density and colour on a clear image.

    Args:
        clear: (H, W, 3) RGB; uint8, or floats in [0, 1].
        depth: (H, W), distance of what each pixel shows, >= 0; infinity is open sky.
        beta: scattering coefficient in 1 / unit of ``depth``, >= 0; 0 is clear air.
        airlight: one brightness, or three (RGB), in [0, 1].

    Raises:
        DataError: when image and depth do not fit each other, or a depth is negative or not a number.
        OptionError: for a negative ``beta`` or an ``airlight`` outside [0, 1].
    """
    _check_pair(clear, depth)
    light = np.broadcast_to(np.asarray(airlight, np.float32), 3)
    if not 0 <= beta < np.inf or not ((light >= 0) & (light <= 1)).all():
        raise OptionError(f"haze: beta must be >= 0 and airlight in [0, 1]; got {beta} and {airlight}")
    scene = clear.astype(np.float32) / (255 if clear.dtype == np.uint8 else 1)
    # 0 * inf has no value, but clear air lets everything through, from any distance.
    transmission = np.exp(-beta * depth.astype(np.float32)) if beta else np.ones(depth.shape, np.float32)
    through = transmission[..., None]
    return HazyImage(scene * through + light * (1 - through), transmission, float(beta), light)


def add_random_haze(
    clear: NDArray[np.generic], depth: NDArray[np.floating], ranges: HazeRange, generator: np.random.Generator
) -> HazyImage:
    """Put haze of random density and colour on a clear image; see :func:`add_haze`.

    The same state of ``generator`` gives the same haze.
    """
    beta = generator.uniform(*ranges.beta)
    brightness = generator.uniform(*ranges.airlight)
    tint = generator.uniform(-ranges.tint, ranges.tint, size=3)
    return add_haze(clear, depth, beta, np.clip(brightness + tint, 0, 1))


def stereo_pair_with_depth() -> tuple[NDArray[np.uint8], Array]:
    """Return the left image of scikit-image's stereo pair, and its depth from the measured disparity.

    The picture (a motorcycle in a workshop, Middlebury 2014) lies in scikit-image's package; nothing is downloaded.

    Returns:
        Image (500, 741, 3) uint8 RGB and depth (500, 741) in metres. Pixels without a measured disparity (7 %) have the
        depth of the nearest pixel that has one.
    """
    image, _, disparity = stereo_motorcycle()
    known = np.isfinite(disparity)
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    depth = _BASELINE * _FOCAL_LENGTH / (disparity[tuple(nearest)] + _PRINCIPAL_POINT_SHIFT)
    return image, depth.astype(np.float32)


def _check_pair(clear: NDArray[np.generic], depth: NDArray[np.floating]) -> None:
    if clear.ndim != 3 or clear.shape[2] != 3 or depth.shape != clear.shape[:2]:
        raise DataError(
            f"haze: expected an RGB image (H, W, 3) and its depth (H, W); got {clear.shape} and {depth.shape}"
        )
    if np.isnan(depth).any() or (depth < 0).any():
        raise DataError("haze: the depth has negative values or NaN; give every pixel a distance >= 0")
