"""Weights and images made from integer formulas, equal on every machine, so that outputs can be recorded as numbers.

The figures recorded in the tests of this folder were computed once by the published modules, with these weights and
inputs, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_PRIME = 10007


def formula_values(shape: Sequence[int], seed: int) -> Tensor:
    """Values in [-1, 1] that look random: a quadratic sequence modulo a prime, exact in integers."""
    index = torch.arange(math.prod(shape), dtype=torch.int64)
    remainders = (31 * index * index + 7919 * index + 104729 * (seed + 1)) % _PRIME
    return (remainders.double() / (_PRIME - 1) * 2 - 1).reshape(*shape)


def formula_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """A state dict with tensors of these names and shapes: weights keep the variance of features, biases are small."""
    state = {}
    for seed, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        bound = 0.1 if len(shape) == 1 else math.sqrt(3.0 / math.prod(shape[1:]))
        state[name] = bound * formula_values(shape, seed)
    return state


def formula_images(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Images in [0, 1], float64."""
    return (formula_values((batch, channels, height, width), 99) + 1) / 2


def probe(output: Tensor) -> list[float]:
    """Mean, standard deviation and five values of an output, for a list of recorded figures."""
    flat = output.flatten()
    picks = [flat[(flat.numel() - 1) * step // 4].item() for step in range(5)]
    return [flat.mean().item(), flat.std(correction=0).item(), *picks]
