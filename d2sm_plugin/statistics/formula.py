"""The divergence as the paper prints it (eq. 2 to 5), with all pairs in one matrix: the page to read first.

Features (n, D) become a matrix of probabilities: row i says how near each of the other n - 1 samples is to sample i.
A divergence compares the rows of restored features with those of clear ones. A function of two such matrices is all
that a new kind takes; :mod:`d2sm_plugin.statistics.row_divergence` computes the paper's kinds faster.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d2sm_plugin.errors import RegistrationError

#: Maps probabilities (n, n - 1) of restored and of clear features to the divergences (n,) of their rows.
Divergence = Callable[[Tensor, Tensor], Tensor]

#: Kind of divergence -> its function.
DIVERGENCES: dict[str, Divergence] = {}


def register_divergence(function: Divergence) -> Divergence:
    """Make a function a kind of divergence, under its own name, for option files and ``D2SMLoss(divergence=...)``.

    Args:
        function: maps two row-stochastic matrices (n, n - 1), those of restored and of clear features, to the
            divergences (n,) of their rows. Autograd differentiates it, in float64. All entries are positive.

    Raises:
        RegistrationError: when another function holds the name.
    """
    name = function.__name__
    holder = DIVERGENCES.get(name, function)
    if (holder.__module__, holder.__qualname__) != (function.__module__, function.__qualname__):
        raise RegistrationError(
            f"divergence '{name}' is claimed twice: by module {holder.__module__} and by module "
            f"{function.__module__}; rename one of the functions"
        )
    DIVERGENCES[name] = function
    return function


def cosine_kernel(features: Tensor) -> Tensor:
    """Kernel (n, n) of all pairs of features (n, D): (cos + 1) / 2, eq. 5; at least one unit of rounding."""
    unit = F.normalize(features, dim=1)
    return ((unit @ unit.T + 1) / 2).clamp_min(torch.finfo(features.dtype).eps)


def neighbour_probabilities(features: Tensor) -> Tensor:
    """Probabilities (n, n - 1) g(j|i) of the other samples j, row by row (eq. 3 and 4), of features (n, D)."""
    kernel = cosine_kernel(features)
    count = len(kernel)
    # Behind each entry of the diagonal follow n others before the next one: cut it out, in both sums of the formula.
    off_diagonal = kernel.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)
    return off_diagonal / off_diagonal.sum(1, keepdim=True)


@register_divergence
def kl(restored: Tensor, clear: Tensor) -> Tensor:
    """KL(restored || clear) of each row, eq. 2."""
    return (restored * (restored / clear).log()).sum(1)


@register_divergence
def reverse_kl(restored: Tensor, clear: Tensor) -> Tensor:
    """KL(clear || restored) of each row, the iKLD of Table 4."""
    return kl(clear, restored)


@register_divergence
def js(restored: Tensor, clear: Tensor) -> Tensor:
    """Half the sum of both directions, the paper's eq. 10 (half the Jeffreys divergence)."""
    return (kl(restored, clear) + kl(clear, restored)) / 2


@register_divergence
def js_mixture(restored: Tensor, clear: Tensor) -> Tensor:
    """Jensen-Shannon divergence of each row: the mean divergence from the mixture of both (Lin, 1991)."""
    mixture = (restored + clear) / 2
    return (kl(restored, mixture) + kl(clear, mixture)) / 2


def printed_divergence(restored: Tensor, clear: Tensor, kind: str = "kl") -> Tensor:
    """Divergence, a scalar, of features (n, D), n >= 2, summed over the rows; differentiable in both."""
    rows = neighbour_probabilities(restored), neighbour_probabilities(clear)
    return DIVERGENCES[kind](*rows).sum()


class PrintedQueue:
    """Equations 7 and 8 by concatenation: the last q pairs, all of them compared anew at every step."""

    def __init__(self, restored: Tensor, clear: Tensor) -> None:
        self.restored, self.clear = restored.detach(), clear

    def __call__(self, restored: Tensor, clear: Tensor) -> Tensor:
        """Divergence of the queue (q, D) after the new batch (N, D) has replaced the oldest entries."""
        joined = torch.cat([self.restored[len(restored) :], restored])
        self.restored, self.clear = joined.detach(), torch.cat([self.clear[len(clear) :], clear])
        return printed_divergence(joined, self.clear)
