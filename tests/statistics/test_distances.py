"""The distances against loops in NumPy, SciPy and scikit-learn, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from d2sm_plugin.statistics import distances

ALL = [*distances.DISTANCES, "sliced_wasserstein"]


def features(seed, count=11, dimension=7):
    return torch.randn(count, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.3


def directions(dimension=7, count=9):
    drawn = features(5, count, dimension)
    return drawn / drawn.norm(dim=1, keepdim=True)


def distance(name, restored, clear):
    if name == "sliced_wasserstein":
        return distances.sliced_wasserstein(restored, clear, directions())
    return distances.DISTANCES[name](restored, clear)


def reference(name, x, y):
    if name == "mmd_polynomial":
        kernels = [polynomial_kernel(a, b, degree=3, coef0=1) for a, b in ((x, x), (y, y), (x, y))]
        return kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean()
    if name == "mmd_gaussian":
        scale = np.mean([[((a - b) ** 2).sum() for b in y] for a in y])
        total = 0.0
        for width in distances.GAUSSIAN_WIDTHS:
            kernels = [rbf_kernel(a, b, gamma=1 / (2 * width * scale)) for a, b in ((x, x), (y, y), (x, y))]
            total += kernels[0].mean() + kernels[1].mean() - 2 * kernels[2].mean()
        return total
    if name == "coral":
        return ((np.cov(x.T) - np.cov(y.T)) ** 2).sum() / (4 * x.shape[1] ** 2)
    if name == "moments":
        return ((x.mean(0) - y.mean(0)) ** 2).sum() + ((x.var(0) - y.var(0)) ** 2).sum()
    if name == "gram":
        grams = [sum(np.outer(row, row) for row in rows) / len(rows) for rows in (x, y)]
        return ((grams[0] - grams[1]) ** 2).mean()
    return np.mean([wasserstein_distance(x @ d, y @ d) for d in directions().numpy()])


@pytest.mark.parametrize("name", ALL)
def test_equals_an_independent_computation(name):
    x, y = features(0), features(1) * 1.3
    assert distance(name, x, y).item() == pytest.approx(reference(name, x.numpy(), y.numpy()), rel=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_gradient_and_equality(name):
    x, y = features(0).requires_grad_(), features(1)
    assert torch.autograd.gradcheck(lambda restored: distance(name, restored, y), (x,))
    shuffled = y[torch.randperm(len(y))]
    assert distance(name, shuffled, y).item() == pytest.approx(0, abs=1e-12)
    assert distance(name, x, y).item() > 0
