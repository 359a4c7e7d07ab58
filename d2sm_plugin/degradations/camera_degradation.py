"""Noise of a camera: in linear light, seen through its mosaic and its response curve."""

from __future__ import annotations

from typing import Literal

import numpy as np

from d2sm_plugin.degradations.chain import Image, Noisy
from d2sm_plugin.degradations.mosaic import PATTERNS, demosaicked, mosaicked
from d2sm_plugin.degradations.ranges import FloatRange, read_range
from d2sm_plugin.degradations.response_curves import ResponseCurve
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.registry import DEGRADATION_REGISTRY, register

_LEVELS = np.float32(2**16 - 1)  # of the sensor


@register(DEGRADATION_REGISTRY)
class CameraNoise:
    """Noise model of CBDNet (Guo et al., "Toward convolutional blind denoising of real photographs", CVPR 2019).

    ``y = f(DM(M(L + n)))`` with the light ``L = f⁻¹(x)``, noise n of the variance ``L sigma_s² + sigma_c²``, a Bayer
    mosaic M and its interpolation DM, at 16 bits. As in the authors' code, levels are drawn for each channel, and the
    mosaic is one of the four Bayer patterns or none, each as likely. Their 201 measured response curves f are replaced
    by the analytic family of :class:`~d2sm_plugin.degradations.response_curves.ResponseCurve`. A ``JPEG`` of quality 60
    to 100 after it makes their noise model of compressed photographs. Values beyond [0, 1] are cut off.

    Its noise level is, for each value, half the distance between the responses to L plus and minus one standard
    deviation of n; the mosaic has no part in it.

    Args:
        sigma_s: level of the noise that grows with the light, at L = 1: a number, or [lowest, highest].
        sigma_c: level of the noise in the dark, likewise.
        gamma: exponent of the response curve, likewise.
        contrast: share of its S-curve, 0 to 1, likewise.
        mosaic: a Bayer pattern, ``none``, or ``random``. Grey images have none.
    """

    def __init__(
        self,
        sigma_s: FloatRange = (0.0, 0.16),
        sigma_c: FloatRange = (0.0, 0.06),
        gamma: FloatRange = (1.8, 2.6),
        contrast: FloatRange = (0.0, 1.0),
        mosaic: Literal["random", "none", "rggb", "grbg", "gbrg", "bggr"] = "random",
    ) -> None:
        self.sigma_s = read_range(sigma_s, "CameraNoise.sigma_s", 0, 1)
        self.sigma_c = read_range(sigma_c, "CameraNoise.sigma_c", 0, 1)
        self.gamma = read_range(gamma, "CameraNoise.gamma", 0.5, 5)
        self.contrast = read_range(contrast, "CameraNoise.contrast", 0, 1)
        if mosaic not in ("random", "none", *PATTERNS):
            raise OptionError(f"CameraNoise.mosaic: '{mosaic}' is unknown{suggest(mosaic, PATTERNS)}")
        self.mosaics = ("none", *PATTERNS) if mosaic == "random" else (mosaic,)

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Return the photograph (H, W, C) that a noisy camera makes of what an image shows."""
        curve = ResponseCurve(self.gamma.draw(generator), self.contrast.draw(generator))
        channels = range(image.shape[2])
        sigma_s = np.array([self.sigma_s.draw(generator) for _ in channels], np.float32)
        sigma_c = np.array([self.sigma_c.draw(generator) for _ in channels], np.float32)
        mosaic = self.mosaics[int(generator.integers(len(self.mosaics)))]
        light = curve.linearise(image)
        deviation = np.sqrt(light * sigma_s**2 + sigma_c**2)
        noisy = light + deviation * generator.standard_normal(light.shape, dtype=np.float32)
        noisy = np.round(np.clip(noisy, 0, 1) * _LEVELS) / _LEVELS
        if mosaic != "none" and len(channels) == 3:
            noisy = demosaicked(mosaicked(noisy, mosaic), mosaic)
        level = (curve.render(light + deviation) - curve.render(light - deviation)) / np.float32(2)
        return Noisy(curve.render(noisy), level)
