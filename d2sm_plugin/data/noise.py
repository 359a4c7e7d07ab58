"""Additive white Gaussian noise, random for training and fixed by key for validation.

Noise levels are standard deviations on the scale of 8-bit images (0 to 255), as papers give them; images are floats in
[0, 1], so the noise that is added has the standard deviation sigma / 255.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def generator_for_key(key: str) -> np.random.Generator:
    """Return the random generator (Philox) that belongs to an image, in the same state on every call."""
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def random_generator() -> np.random.Generator:
    """Return a random generator whose seed comes from torch's global one."""
    return np.random.default_rng(int(torch.randint(2**63 - 1, ())))


def noise_for_key(key: str, sigma: float, shape: tuple[int, ...]) -> Tensor:
    """Return the noise that belongs to an image, the same on every call and in any order.

    The generator is keyed by a hash of ``key`` alone: the noise of an image at two levels is one pattern, scaled.

    Args:
        key: of the image.
        sigma: noise level on the 0-255 scale.
        shape: for example (3, H, W).

    Returns:
        float32 of ``shape``, mean 0, standard deviation ``sigma / 255``.
    """
    noise = generator_for_key(key).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(noise).mul_(sigma / 255)


def random_noise(sigma: float, shape: tuple[int, ...]) -> Tensor:
    """Return noise of level ``sigma`` (0-255 scale) from torch's global generator; float32 of ``shape``."""
    return torch.randn(shape).mul_(sigma / 255)


def random_sigma(low: float, high: float) -> float:
    """Return a noise level, uniform in [low, high], from torch's global generator."""
    return low + (high - low) * torch.rand(()).item()
