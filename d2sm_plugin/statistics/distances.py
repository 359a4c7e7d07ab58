"""Distances between the distributions of two sets of features: the relatives of D2SM, over the same samples.

Every function maps restored features (n, D), with gradient, and clear ones (m, D) to a scalar >= 0 that is 0 for equal
sets, in any order. Unlike D2SM's divergence none of them knows which restored sample belongs to which clear one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Widths of the Gaussian kernels, squared, in units of the mean squared distance of clear samples.
GAUSSIAN_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


def mmd_polynomial(restored: Tensor, clear: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, biased, with the kernel (x.y / D + 1)^3 (Binkowski et al., ICLR 2018)."""
    return _mmd(restored, clear, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3)


def mmd_gaussian(restored: Tensor, clear: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, biased, with a sum of Gaussian kernels (GMMN; Li et al., ICML 2015).

    Their squared widths are :data:`GAUSSIAN_WIDTHS` times the mean squared distance of the clear samples.
    """
    scale = _squared_distances(clear, clear).mean().detach().clamp_min(torch.finfo(clear.dtype).tiny)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        distances = _squared_distances(x, y) / (2 * scale)
        return torch.stack([(-distances / width).exp() for width in GAUSSIAN_WIDTHS]).sum(0)

    return _mmd(restored, clear, kernel)


def coral(restored: Tensor, clear: Tensor) -> Tensor:
    """Squared distance of the covariances, over 4 D^2 (Sun and Saenko, ECCV workshops 2016)."""
    return (_covariance(restored) - _covariance(clear)).square().sum() / (4 * restored.shape[1] ** 2)


def moments(restored: Tensor, clear: Tensor) -> Tensor:
    """Squared distance of the means and of the variances of each feature (GFMN; dos Santos et al., ICCV 2019)."""
    means = (restored.mean(0) - clear.mean(0)).square().sum()
    variances = (restored.var(0, correction=0) - clear.var(0, correction=0)).square().sum()
    return means + variances


def gram(restored: Tensor, clear: Tensor) -> Tensor:
    """Mean squared difference of the Gram matrices X^T X / n (Gatys et al., CVPR 2016)."""
    return (restored.T @ restored / len(restored) - clear.T @ clear / len(clear)).square().mean()


def sliced_wasserstein(restored: Tensor, clear: Tensor, directions: Tensor) -> Tensor:
    """Mean over directions of the 1-Wasserstein distance of the projections (Delbracio et al., CVPR workshops 2021).

    Args:
        restored: features (n, D).
        clear: likewise, as many.
        directions: unit vectors (k, D).
    """
    sorted_projections = [(features @ directions.T).sort(0).values for features in (restored, clear)]
    return (sorted_projections[0] - sorted_projections[1]).abs().mean()


#: Name -> distance, but for ``sliced_wasserstein``, which takes directions too.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    function.__name__: function for function in (mmd_polynomial, mmd_gaussian, coral, moments, gram)
}


def _mmd(restored: Tensor, clear: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    within = kernel(restored, restored).mean() + kernel(clear, clear).mean()
    return (within - 2 * kernel(restored, clear).mean()).clamp_min(0)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(1)[:, None] + y.square().sum(1)[None]
    return (squares - 2 * x @ y.T).clamp_min(0)


def _covariance(features: Tensor) -> Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / max(1, len(features) - 1)
