"""Reach of an extractor's early layers: what a window's border changes, and what windows have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features.interface import Extractor, Part


class Reach(NamedTuple):
    """Pixels that a cell of a map sees: those ``before`` its own first one, and the last one ``after`` it."""

    before: int
    after: int


class Step(NamedTuple):
    """Layers that make maps (B, D, h / stride, w / stride) of maps (B, C, h, w)."""

    run: Part
    stride: int


_REACHES: WeakKeyDictionary[Extractor, dict[int, list[Reach]]] = WeakKeyDictionary()


def reaches_of(extractor: Extractor, steps: Sequence[Step], example: Tensor) -> list[Reach]:
    """Return :func:`measure_reach` of each step of an extractor's early part, measured once."""
    known = _REACHES.setdefault(extractor, {})
    stride = math.prod(step.stride for step in steps)
    if stride not in known:
        known[stride] = measure_reaches(steps, example)
    return known[stride]


def measure_reaches(steps: Sequence[Step], example: Tensor) -> list[Reach]:
    """Find out which cells of its input a cell behind each step depends on, by one gradient for each.

    Args:
        steps: one behind the other, the first one from images (B, 3, H, W).
        example: images of the device and dtype that the steps take.

    Raises:
        OptionError: when a cell sees as far as the image goes, as in networks with global pooling in their early part.
    """
    cells = 24 * math.prod(step.stride for step in steps)
    maps = torch.rand(2, 3, cells, cells, generator=torch.Generator().manual_seed(0))
    maps, passed, reaches = maps.to(example.device, example.dtype), 1, []
    with torch.enable_grad(), torch.autocast(example.device.type, enabled=False):
        for step in steps:
            maps = maps.detach().requires_grad_()
            output = step.run(maps.clone())  # not a leaf: counters of operations, which hook modules, take none
            middle = output.shape[-1] // 2
            (gradient,) = torch.autograd.grad(output[:, :, middle, middle].sum(), maps, retain_graph=True)
            reaches.append(_seen(gradient, middle * step.stride, passed * step.stride, passed))
            maps, passed = output, passed * step.stride
    return reaches


def measure_reach(early: Part, stride: int, example: Tensor) -> Reach:
    """Return :func:`measure_reaches` of a single step."""
    return measure_reaches([Step(early, stride)], example)[0]


def _seen(gradient: Tensor, start: int, stride: int, passed: int) -> Reach:
    seen = gradient.abs().sum((0, 1))
    spans = [(torch.nonzero(seen.sum(axis)).flatten() - start).tolist() for axis in (1, 0)]
    before = max(0, -min(span[0] for span in spans))
    after = max(span[-1] for span in spans)
    if before >= start or after >= start - 1:
        raise OptionError(
            f"PatchSampler.shared_stride: up to stride {stride} the extractor looks further than {start * passed} "
            f"pixels, so its windows have too little in common; choose a smaller shared_stride, border 'open', or "
            f"mode 'crop'"
        )
    return Reach(before, after)
