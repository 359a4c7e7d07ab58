"""The noise level of a picture: given, or estimated from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import OptionError
from d2sm_plugin.extras import import_extra

#: What is written instead of a number to have the noise level estimated.
ESTIMATE = "estimate"


def parse_noise_level(text: str) -> float | str:
    """Return a noise level from a command line: a number in [0, 255], or :data:`ESTIMATE`.

    Raises:
        OptionError: for anything else.
    """
    if text == ESTIMATE:
        return ESTIMATE
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not 0 <= level <= 255:
        raise OptionError(f"--sigma {text}: expected a noise level between 0 and 255, or '{ESTIMATE}'")
    return level


def check_estimator() -> None:
    """Check that noise levels can be estimated here.

    Raises:
        DependencyError: when PyWavelets is missing, on which scikit-image's estimator rests.
    """
    import_extra("pywt", "estimating the noise level")


def estimate_noise_level(pixels: NDArray[np.floating]) -> float:
    """Estimate the standard deviation of white Gaussian noise in a picture.

    scikit-image's estimator: the median absolute wavelet coefficient at the finest scale (Donoho and Johnstone, 1994),
    averaged over the channels. Fine texture counts as noise, so clear pictures get a level of a few units.

    Args:
        pixels: (H, W, C), any range.

    Returns:
        The level in the unit of ``pixels``.
    """
    from skimage.restoration import estimate_sigma

    return float(estimate_sigma(pixels, average_sigmas=True, channel_axis=-1))
