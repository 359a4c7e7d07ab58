"""What the paper says, twice: with a loop for every sum (eq. 2 to 5, 10), and as matrices for larger sizes."""

from __future__ import annotations

import torch
from torch import nn


def cosine_kernel(a, b):
    return ((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()) + 1) / 2


def conditional(features, j, i):
    """g(j|i), eq. 3 and 4."""
    total = 0.0
    for k in range(len(features)):
        if k != i:
            total = total + cosine_kernel(features[k], features[i])
    return cosine_kernel(features[j], features[i]) / total


def divergence_by_loops(restored, clear, kind="kl"):
    if kind == "js":
        return (divergence_by_loops(restored, clear, "kl") + divergence_by_loops(restored, clear, "reverse_kl")) / 2
    restored, clear = restored.double(), clear.double()
    total = restored.sum() * 0
    for i in range(len(restored)):
        for j in range(len(restored)):
            if j != i:
                p, q = conditional(restored, j, i), conditional(clear, j, i)
                if kind == "reverse_kl":
                    p, q = q, p
                total = total + p * torch.log(p / q)
    return total


def dense_divergence(restored, clear, kind="kl"):
    if kind == "js":
        return (dense_divergence(restored, clear, "kl") + dense_divergence(restored, clear, "reverse_kl")) / 2
    logs = []
    for features in (restored.double(), clear.double()):
        unit = nn.functional.normalize(features, dim=1)
        kernel = (unit @ unit.T + 1) / 2
        kernel = kernel - torch.diag(kernel.diagonal())
        rows = kernel / kernel.sum(1, keepdim=True)
        logs.append((rows + torch.eye(len(rows), dtype=rows.dtype)).log())
    if kind == "js_mixture":
        mixture = ((logs[0].exp() + logs[1].exp()) / 2).log()
        return sum((log.exp() * (log - mixture)).fill_diagonal_(0).sum() for log in logs) / 2
    p, q = logs if kind == "kl" else logs[::-1]
    off_diagonal = 1 - torch.eye(len(p), dtype=p.dtype)
    return (off_diagonal * p.exp() * (p - q)).sum()


class NaiveQueue:
    """The last q pairs, in order of arrival; the divergence of all of them, dense."""

    def __init__(self, size, divergence=dense_divergence):
        self.size, self.divergence = size, divergence
        self.restored = self.clear = None

    def __call__(self, restored, clear, kind="kl"):
        restored, clear = restored.double(), clear.double()
        if self.restored is not None:
            restored, clear = torch.cat([self.restored, restored]), torch.cat([self.clear, clear])
        restored, clear = restored[-self.size :], clear[-self.size :]
        self.restored, self.clear = restored.detach(), clear.detach()
        return self.divergence(restored, clear, kind)


def pair(count, dimension, relative=0.5, dtype=torch.float64):
    """Clear features like those behind a ReLU, and restored ones that are ``relative`` of their norm away."""
    clear = torch.randn(count, dimension, dtype=dtype).relu() + 0.01
    noise = torch.randn(count, dimension, dtype=dtype)
    noise = noise * (relative * clear.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True))
    return (clear + noise).requires_grad_(), clear


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


class TinyExtractor(nn.Module):
    """Differentiable everywhere, deterministic, any image size of at least 4x4."""

    def __init__(self, width=6, seed=3):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4

    def feature_map(self, images):
        return nn.functional.softplus(self.second(self.dropout(torch.tanh(self.first(images)))))

    def forward(self, images):
        return self.feature_map(images).mean((2, 3))

    def split(self, stride):
        """The part down to stride 2 on the whole image, and the rest on windows of its map."""
        assert stride == 2
        return self.first, lambda part: nn.functional.softplus(self.second(torch.tanh(part))).mean((2, 3))
