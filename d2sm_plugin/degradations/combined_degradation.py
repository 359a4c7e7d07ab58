"""Degradations made of others: one out of several, several in random order, and the second-order chain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from d2sm_plugin.argument_types import BlockOf, Count, Weight
from d2sm_plugin.degradations.blur_degradation import KINDS, Blur, SincFilter
from d2sm_plugin.degradations.chain import Degradation, Image, Noisy, Step, read_steps, run
from d2sm_plugin.degradations.jpeg_degradation import JPEG
from d2sm_plugin.degradations.noise_degradation import GaussianNoise, PoissonGaussianNoise
from d2sm_plugin.degradations.ranges import Range
from d2sm_plugin.degradations.resizing import draw_interpolation, resized
from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import DEGRADATION_REGISTRY, register

Steps = Annotated[Sequence[Mapping[str, Any] | Degradation], BlockOf(DEGRADATION_REGISTRY)]


@register(DEGRADATION_REGISTRY)
class OneOf:
    """One degradation out of several, drawn for each image.

    Args:
        steps: blocks of degradations.
        weights: of each in the draw; none for equal ones.
    """

    def __init__(self, steps: Steps, weights: Sequence[Weight] | None = None) -> None:
        self.steps = read_steps(steps, "OneOf.steps")
        shares = np.asarray(weights if weights is not None else [1] * len(self.steps), np.float64)
        if shares.shape != (len(self.steps),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise OptionError(f"OneOf.weights: expected {len(self.steps)} numbers of at least 0, got {weights}")
        self.shares = shares / shares.sum()

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Degrade an image (H, W, C)."""
        return self.steps[int(generator.choice(len(self.steps), p=self.shares))](image, generator)


@register(DEGRADATION_REGISTRY)
class Shuffled:
    """Several degradations in an order drawn for each image (Zhang et al., "Designing a practical degradation model for
    deep blind image super-resolution", ICCV 2021: BSRGAN).

    Args:
        steps: blocks of degradations.
    """  # noqa: D205  # the source is part of the sentence

    def __init__(self, steps: Steps) -> None:
        self.steps = read_steps(steps, "Shuffled.steps")

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Degrade an image (H, W, C)."""
        order = generator.permutation(len(self.steps))
        return run((self.steps[number] for number in order), image, generator)


@register(DEGRADATION_REGISTRY)
class SecondOrder:
    """Second-order chain of Real-ESRGAN (Wang et al., ICCV workshops 2021), with the figures of its published training.

    Blur, resizing, noise and JPEG, then weaker blur, resizing and noise; then resizing to the final size with a sinc
    filter (at a probability of 0.8), and JPEG, in either order. The published Poisson noise, whose unit depends on the
    number of values in an image, is that of an image of 256 values.

    Args:
        scale: by which the result is smaller than the image, as the option file's.
    """

    def __init__(self, scale: Count = 1) -> None:
        if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
            raise OptionError(f"SecondOrder.scale: expected a whole number of at least 1, got {scale!r}")
        self.scale = scale
        self.blurs = Step(_blur((0.2, 3.0))), Step(_blur((0.2, 1.5)), 0.8)
        self.noises = Step(_noise((1.0, 30.0), (0.05, 3.0))), Step(_noise((1.0, 25.0), (0.05, 2.5)))
        self.jpeg, self.sinc = Step(JPEG((30, 95))), Step(SincFilter((math.pi / 3, math.pi)), 0.8)

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Degrade an image (H, W, C); returns (H // scale, W // scale, C)."""
        whole = image.shape[:2]
        final = [max(1, side // self.scale) for side in whole]
        first = Step(_Resize(whole, (0.2, 0.7, 0.1), (0.15, 1.5)))
        second = Step(_Resize(final, (0.3, 0.4, 0.3), (0.3, 1.2)))
        last = [Step(_Resize(final)), self.sinc]
        last = [*last, self.jpeg] if generator.random() < 0.5 else [self.jpeg, *last]
        steps = [self.blurs[0], first, self.noises[0], self.jpeg, self.blurs[1], second, self.noises[1], *last]
        return run(steps, image, generator)


class _Resize:
    """Resizing to a size, times a random factor.

    Args:
        size: height and width.
        shares: probabilities that the factor lies above 1, below 1, and is 1.
        factors: smallest and largest factor.
    """

    def __init__(
        self,
        size: Sequence[int],
        shares: tuple[float, float, float] = (0.0, 0.0, 1.0),
        factors: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.size, self.shares = size, shares
        self.ranges = Range(1.0, factors[1]), Range(factors[0], 1.0), Range(1.0, 1.0)

    def __call__(self, image: Image, generator: np.random.Generator) -> Image:
        factor = self.ranges[int(generator.choice(3, p=self.shares))].draw(generator)
        height, width = (max(1, int(side * factor)) for side in self.size)
        return resized(image, (height, width), draw_interpolation(generator))


def _blur(sigma: tuple[float, float]) -> OneOf:
    kinds = dict(zip(KINDS, (0.45, 0.25, 0.12, 0.03, 0.12, 0.03), strict=True))
    return OneOf([Blur(sigma, kinds, (7, 21)), SincFilter()], (0.9, 0.1))


def _noise(gaussian: tuple[float, float], poisson: tuple[float, float]) -> OneOf:
    """Return noise of these levels (0-255 scale), or of factors on that of 256 photons at white."""
    shot = (poisson[0] * 255 / 16, poisson[1] * 255 / 16)  # 16 is the root of 256
    return OneOf([GaussianNoise(gaussian, 0.4), PoissonGaussianNoise(shot, 0.0, 0.4)])
