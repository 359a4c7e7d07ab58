"""Additive white Gaussian noise, random for training (by seeds, on any device) and fixed by key for validation.

Noise levels are standard deviations on the scale of 8-bit images (0 to 255), as papers give them; images are floats in
[0, 1], so the noise that is added has the standard deviation sigma / 255.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Entry of samples whose noise is still to be made: the seed of the image's noise, int64 (), or (B,) in a batch.
NOISE_SEED = "noise_seed"


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


def random_noise_seed() -> Tensor:
    """Return the seed of an image's noise, int64 (), from torch's global generator."""
    return torch.randint(2**63 - 1, ())


def with_seeded_noise(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch (or one sample) with ``lq`` in place of :data:`NOISE_SEED`; without such an entry, as it is.

    The noise is made on the device of ``gt``. That of an image follows from its seed, its shape and the kind of the
    device alone, so that neither the rest of the batch nor the number of processes changes it.

    Args:
        entries: ``gt`` (B, C, H, W), contiguous, ``sigma`` (B, 1, 1, 1), noise level / 255, and the seeds; for a
            sample, all without B. Seeds on another device than the CPU make the caller wait for it.
    """
    complete = dict(entries)
    if NOISE_SEED not in complete:
        return complete
    gt, seeds = complete["gt"], complete.pop(NOISE_SEED).reshape(-1)
    noise, generator = torch.empty_like(gt), torch.Generator(gt.device)
    for plane, seed in zip(noise.view(len(seeds), -1), seeds.tolist(), strict=True):
        plane.normal_(generator=generator.manual_seed(seed))
    complete["lq"] = noise.mul_(complete["sigma"]).add_(gt)
    return complete


def random_sigma(low: float, high: float) -> float:
    """Return a noise level, uniform in [low, high], from torch's global generator."""
    return low + (high - low) * torch.rand(()).item()
