"""Noise that is added to the image as it is seen: Gaussian, and Poisson-Gaussian."""

from __future__ import annotations

import numpy as np

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.degradations.chain import Image, Noisy
from d2sm_plugin.degradations.ranges import FloatRange, read_range
from d2sm_plugin.registry import DEGRADATION_REGISTRY, register

_HIGHEST = 255.0
_LEAST_SHOT = 1e-3 / 255  # less is lost in float32, and Poisson's numbers of photons would be beyond int64


@register(DEGRADATION_REGISTRY)
class GaussianNoise:
    """White Gaussian noise.

    With one fixed level it is, for a validation image, the same noise as ``sigma`` of ``NoisyImageDataset`` adds.

    Args:
        sigma: level on the 0-255 scale: a number, or [lowest, highest], uniform for each image.
        grey: probability of the same noise in all channels.
    """

    def __init__(self, sigma: FloatRange = 25.0, grey: Weight = 0.0) -> None:
        self.sigma = read_range(sigma, "GaussianNoise.sigma", 0, _HIGHEST)
        self.grey = read_range(grey, "GaussianNoise.grey", 0, 1).high

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Add noise to an image (H, W, C)."""
        level = self.sigma.draw(generator) / _HIGHEST
        planes = 1 if self.grey and generator.random() < self.grey else image.shape[2]
        noise = generator.standard_normal((planes, *image.shape[:2]), dtype=np.float32)
        return Noisy(image + (noise * np.float32(level)).transpose(1, 2, 0), level)


@register(DEGRADATION_REGISTRY)
class PoissonGaussianNoise:
    """Photon (shot) noise, whose variance grows with the brightness x in [0, 1], and read noise, which is the same
    everywhere: variance ``(shot² x + read²) / 255²`` (Foi et al., "Practical Poissonian-Gaussian noise modeling and
    fitting for single-image raw-data", TIP 2008).

    Photons are drawn from Poisson's distribution: ``255² / shot²`` of them are expected at x = 1.

    Args:
        shot: level of the photon noise at white, on the 0-255 scale: a number, or [lowest, highest].
        read: level of the read noise, on the 0-255 scale, likewise.
        grey: probability of the same noise in all channels, that of their mean brightness.
    """  # noqa: D205  # the model is one sentence

    def __init__(self, shot: FloatRange = (0.0, 30.0), read: FloatRange = (0.0, 10.0), grey: Weight = 0.0) -> None:
        self.shot = read_range(shot, "PoissonGaussianNoise.shot", 0, _HIGHEST)
        self.read = read_range(read, "PoissonGaussianNoise.read", 0, _HIGHEST)
        self.grey = read_range(grey, "PoissonGaussianNoise.grey", 0, 1).high

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Add noise to an image (H, W, C)."""
        shot, read = self.shot.draw(generator) / _HIGHEST, self.read.draw(generator) / _HIGHEST
        light = np.clip(image, 0, None)
        if self.grey and generator.random() < self.grey:
            light = light.mean(axis=2, keepdims=True)
        noise = read * generator.standard_normal(light.shape, dtype=np.float32)
        if shot > _LEAST_SHOT:
            noise += generator.poisson(light / shot**2) * shot**2 - light
        level = np.sqrt(shot**2 * light + read**2)
        return Noisy((image + noise).astype(np.float32), level.astype(np.float32))
