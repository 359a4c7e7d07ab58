"""Blur: kernels of Gaussian families, and the low-pass filter that rings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.argument_types import Weight
from d2sm_plugin.degradations.chain import Image
from d2sm_plugin.degradations.ranges import FloatRange, IntRange, Range, read_range
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.registry import DEGRADATION_REGISTRY, register

Kind = Literal[
    "isotropic", "anisotropic", "generalized_isotropic", "generalized_anisotropic", "plateau_isotropic",
    "plateau_anisotropic",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
_LARGEST = 101


@register(DEGRADATION_REGISTRY)
class Blur:
    """Blur by a Gaussian kernel or one of its relatives (Wang et al., "Real-ESRGAN", ICCV workshops 2021, section 3.1).

    With ``q = x' S⁻¹ x`` of the covariance S, kernels are proportional to ``exp(-q / 2)`` (Gaussian),
    ``exp(-q^beta / 2)`` (generalized) and ``1 / (1 + q^beta)`` (plateau). S has one standard deviation (isotropic), or
    two along axes of random direction (anisotropic). Borders are mirrored.

    Args:
        sigma: standard deviation in pixels: a number, or [lowest, highest] of each axis.
        kind: one kind of kernel, or kinds with their weights in the draw, e.g. ``{isotropic: 0.7, anisotropic: 0.3}``.
        size: side of the kernel, odd: a number, [lowest, highest], or none for three standard deviations to each side.
        beta_generalized: exponent: a number, or [lowest, highest] around 1; either side of 1 is as likely.
        beta_plateau: likewise.
    """

    def __init__(
        self,
        sigma: FloatRange = (0.2, 3.0),
        kind: Kind | Mapping[Kind, Weight] = "isotropic",
        size: IntRange | None = None,
        beta_generalized: FloatRange = (0.5, 4.0),
        beta_plateau: FloatRange = (1.0, 2.0),
    ) -> None:
        self.sigma = read_range(sigma, "Blur.sigma", 0.05, (_LARGEST - 1) / 6)
        self.size = None if size is None else read_size(size, "Blur.size")
        self.betas = {
            "generalized": read_range(beta_generalized, "Blur.beta_generalized", 0.1, 10),
            "plateau": read_range(beta_plateau, "Blur.beta_plateau", 0.1, 10),
        }
        weights = {kind: 1.0} if isinstance(kind, str) else dict(kind)
        for name in weights:
            if name not in KINDS:
                raise OptionError(f"Blur.kind: '{name}' is unknown{suggest(name, KINDS)}")
        total = sum(weights.values())
        if not 0 < total < math.inf or min(weights.values()) < 0:
            raise OptionError(f"Blur.kind: expected weights of at least 0 that are not all 0, got {dict(weights)}")
        self.kinds = list(weights)
        self.shares = [weight / total for weight in weights.values()]

    def __call__(self, image: Image, generator: np.random.Generator) -> Image:
        """Blur an image (H, W, C)."""
        return filtered(image, self.kernel(generator))

    def kernel(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw a kernel (size, size) whose sum is 1."""
        kind = self.kinds[0] if len(self.kinds) == 1 else str(generator.choice(self.kinds, p=self.shares))
        first = second = self.sigma.draw(generator)
        angle = 0.0
        if kind.endswith("anisotropic"):
            second, angle = self.sigma.draw(generator), generator.uniform(0, math.pi)
        family = kind.rpartition("_")[0]
        beta = _draw_exponent(self.betas[family], generator) if family else 1.0
        size = 2 * math.ceil(3 * max(first, second)) + 1 if self.size is None else self.size.draw_whole(generator, 2)
        return gaussian_kernel(size, (first, second), angle, beta, plateau=family == "plateau")


@register(DEGRADATION_REGISTRY)
class SincFilter:
    """Ideal low-pass filter, which rings at edges (Wang et al., "Real-ESRGAN", ICCV workshops 2021, section 3.3).

    The kernel is ``w J1(w r) / (2 pi r)``, cut off at its size and divided by its sum.

    Args:
        cutoff: w in radians, up to pi: a number, [lowest, highest], or none for the published range: from pi/3, or pi/5
            for kernels of 13 pixels and more, to pi.
        size: side of the kernel, odd: a number, or [lowest, highest].
    """

    def __init__(self, cutoff: FloatRange | None = None, size: IntRange = (7, 21)) -> None:
        self.cutoff = None if cutoff is None else read_range(cutoff, "SincFilter.cutoff", 0.1, math.pi)
        self.size = read_size(size, "SincFilter.size")

    def __call__(self, image: Image, generator: np.random.Generator) -> Image:
        """Filter an image (H, W, C)."""
        size = self.size.draw_whole(generator, 2)
        published = Range(math.pi / (3 if size < 13 else 5), math.pi)
        return filtered(image, sinc_kernel(size, (self.cutoff or published).draw(generator)))


def gaussian_kernel(
    size: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0, plateau: bool = False
) -> NDArray[np.float64]:
    """Return a kernel (size, size) of the Gaussian family; its sum is 1.

    Args:
        size: odd.
        sigma: standard deviations in pixels along the two axes.
        angle: of the first axis against the rows, in radians.
        beta: exponent of the quadratic form.
        plateau: of the family ``1 / (1 + q^beta)``, not ``exp(-q^beta / 2)``.
    """
    y, x = np.mgrid[:size, :size] - size // 2
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    q = ((along / sigma[0]) ** 2 + (across / sigma[1]) ** 2) ** beta
    kernel = 1 / (1 + q) if plateau else np.exp(-q / 2)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> NDArray[np.float64]:
    """Return the circular low-pass kernel (size, size) of a cutoff in radians; its sum is 1."""
    from scipy.special import j1

    y, x = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(x, y)
    radius[size // 2, size // 2] = 1
    kernel = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)  # the limit at the centre
    return kernel / kernel.sum()


def filtered(image: Image, kernel: NDArray[np.float64]) -> Image:
    """Return an image (H, W, C) correlated with a kernel; borders are mirrored."""
    result = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(result, np.float32).reshape(image.shape)


def read_size(size: int | tuple[int, int], where: str) -> Range:
    """Return the sides of kernels as a range of odd numbers.

    Raises:
        OptionError: for even ones, and those below 3 or above 101.
    """
    sides = read_range(size, where, 3, _LARGEST)
    if sides.low % 2 != 1 or sides.high % 2 != 1:
        raise OptionError(f"{where}: expected odd numbers, got {size}")
    return sides


def _draw_exponent(betas: Range, generator: np.random.Generator) -> float:
    """Draw an exponent below 1 or above it, both as likely; from a range on one side of 1, uniformly."""
    if not betas.low < 1 < betas.high:
        return betas.draw(generator)
    return generator.uniform(betas.low, 1) if generator.random() < 0.5 else generator.uniform(1, betas.high)
