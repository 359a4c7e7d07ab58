"""Internal probability: the windows of an image are its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from d2sm_plugin.argument_types import Count, NonNegative
from d2sm_plugin.errors import OptionError, ShapeError, suggest
from d2sm_plugin.features.interface import Extractor, Part, can_split, splits_in_steps
from d2sm_plugin.losses.sampler import Sampler
from d2sm_plugin.losses.windows.shared_windows import SharedWindows
from d2sm_plugin.losses.windows.window_reach import Step, reaches_of
from d2sm_plugin.registry import LOSS_REGISTRY, register
from d2sm_plugin.statistics.row_sums import LEAST_SAMPLES

MODES = ("crop", "shared")
BORDERS = ("padded", "open")
LATE_DTYPES = (None, "bfloat16")
T = TypeVar("T")


@register(LOSS_REGISTRY)
class PatchSampler(Sampler):
    """Sliding windows (paper, eq. 9), the same of restored and clear image, row by row from the top left corner.

    Windows that do not fit at the right and bottom edge are left out: along H there are ``(H - size) // stride + 1``.

    Args:
        size: K, height and width of a window in pixels.
        stride: distance of neighbouring windows in pixels.
        max_patches: draw so many of the windows at random at every call; None takes all.
        scope: ``"batch"`` pools the windows of all images (and of the queue); ``"image"`` compares only windows of
            one image with each other.
        mode: ``"crop"`` runs the extractor on every window, as in the paper. ``"shared"`` runs its early layers once
            on the whole image, cuts the windows out of their map, and runs the rest on every window.
        shared_stride: of the map that ``"shared"`` cuts; divides ``size`` and ``stride``.
        border: of windows in mode ``"shared"``. ``"padded"`` computes the cells near a window's border for themselves,
            padded with zeros as ``"crop"`` pads them: the result is that of ``"crop"`` but for rounding. ``"open"``
            lets a window see its surroundings there: faster, and an approximation, with a cosine of about 0.9 to the
            gradient of ``"crop"`` (see docs/speed.md).
        seed: of the random choice.
        max_patches_per_chunk: run the extractor on at most so many windows at a time, to the same result; None runs it
            on all at once.
        recompute: with chunks, keep the activations of one chunk at a time and compute them again in the backward
            pass, so that memory does not grow with the number of windows; False keeps them all and computes them once.
        late_dtype: ``"bfloat16"`` runs the layers behind the cut of mode ``"shared"`` in bfloat16 and those before it
            in full precision, whatever autocast the caller has set: rounding in early layers costs the gradient most
            of what it loses under autocast, and shared they take little time. None leaves it to the caller.

    Raises:
        OptionError: for a size, stride, scope, mode, shared_stride, chunk, border or late_dtype that cannot be used.

    >>> PatchSampler(size=64, stride=32).windows(96, 128)
    [(0, 0), (0, 32), (0, 64), (32, 0), (32, 32), (32, 64)]
    >>> def brightness(images):
    ...     return images.mean((2, 3))
    >>> sampler, image = PatchSampler(size=64, stride=32), torch.rand(2, 3, 96, 128)
    >>> restored, clear = sampler(brightness, image, image)
    >>> restored.shape
    torch.Size([2, 6, 3])
    """

    def __init__(
        self,
        size: Count = 224,
        stride: Count = 56,
        max_patches: Count | None = None,
        scope: Literal["batch", "image"] = "batch",
        mode: Literal["crop", "shared"] = "crop",
        shared_stride: Count = 4,
        seed: NonNegative = 0,
        max_patches_per_chunk: Count | None = None,
        recompute: bool = True,
        border: Literal["padded", "open"] = "padded",
        late_dtype: Literal["bfloat16"] | None = None,
    ) -> None:
        super().__init__(max_patches, scope, seed)
        sizes = {"size": size, "stride": stride, "shared_stride": shared_stride}
        if max_patches_per_chunk is not None:
            sizes["max_patches_per_chunk"] = max_patches_per_chunk
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(f"PatchSampler.{name}: expected a positive integer, got {value!r}")
        if mode not in MODES:
            raise OptionError(f"PatchSampler.mode: '{mode}' is unknown{suggest(mode, MODES)}")
        if border not in BORDERS:
            raise OptionError(f"PatchSampler.border: '{border}' is unknown{suggest(border, BORDERS)}")
        if late_dtype not in LATE_DTYPES or (late_dtype is not None and mode != "shared"):
            raise OptionError(
                f"PatchSampler.late_dtype: expected bfloat16 with mode 'shared', or null; got {late_dtype!r}"
            )
        if mode == "shared" and (size % shared_stride or stride % shared_stride):
            raise OptionError(
                f"PatchSampler.shared_stride: {shared_stride} must divide size {size} and stride {stride} in mode "
                f"'shared'; choose a divisor of {math.gcd(size, stride)}"
            )
        self.size, self.stride, self.mode, self.shared_stride = size, stride, mode, shared_stride
        self.chunk, self.recompute, self.border = max_patches_per_chunk, recompute, border
        self.late_dtype = late_dtype

    def forward(self, extractor: Extractor, restored: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, P, D) of the windows of restored images, with their graph, and of clear ones, without.

        Raises:
            ShapeError: when the images are smaller than a window, or hold too few to be compared with each other.
        """
        windows = self.windows(*restored.shape[-2:])
        with torch.no_grad():
            clear_features = self.features(extractor, clear, windows)
        return self.features(extractor, restored, windows), clear_features

    def samples_of(self, side: int) -> int:
        """Return the number of windows of a square image."""
        return len(self.windows(side, side))

    def windows(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top left corners (row, column) of the windows in images of this size, drawn if there are too many."""
        if self.size > min(height, width):
            raise ShapeError(
                f"PatchSampler.size: windows of {self.size}x{self.size} do not fit into images of {height}x{width}; "
                f"set a smaller size or train on larger crops"
            )
        corners = [
            (top, left)
            for top in range(0, height - self.size + 1, self.stride)
            for left in range(0, width - self.size + 1, self.stride)
        ]
        if self.scope == "image" and len(corners) < LEAST_SAMPLES:
            raise ShapeError(
                f"PatchSampler.scope: scope 'image' compares windows of one image, at least {LEAST_SAMPLES}, and an "
                f"image of {height}x{width} has {len(corners)} of size {self.size}, stride {self.stride}; set scope "
                f"'batch', a smaller size or a smaller stride"
            )
        return [corners[index] for index in self.choose(len(corners))]

    def features(self, extractor: Extractor, images: Tensor, windows: list[tuple[int, int]]) -> Tensor:
        """Features (B, P, D) of the windows with these corners in images (B, 3, H, W).

        Raises:
            OptionError: when the mode is ``"shared"`` and the extractor cannot be cut in two.
        """
        count = len(images) * len(windows)
        step = self.chunk or count
        if self.mode == "crop":
            corners = [(index, top, left) for index in range(len(images)) for top, left in windows]
            parts = [corners[first : first + step] for first in range(0, count, step)]
            features = self._in_turn(lambda part: extractor(self._cut(images, part)), parts, images)
        else:
            shared, late = self._shared(extractor, images)
            with self._early_precision(images):
                maps = shared(images if self.late_dtype is None else _at_least_float32(images), windows)
            features = self._in_turn(late, maps.split(step), maps)
        return features.unflatten(0, (len(images), len(windows)))

    def _cut(self, images: Tensor, corners: Sequence[tuple[int, int, int]]) -> Tensor:
        size = self.size
        return torch.cat([images[i : i + 1, :, top : top + size, left : left + size] for i, top, left in corners])

    def _shared(self, extractor: Extractor, images: Tensor) -> tuple[SharedWindows, Part]:
        """Early part, which gives the maps of windows, and late part, which makes features of them."""
        if not can_split(extractor):
            raise OptionError(
                f"PatchSampler.mode: 'shared' needs an extractor that can be cut in two, but "
                f"{type(extractor).__name__} has no method split; set mode 'crop'"
            )
        early, late = extractor.split(self.shared_stride)
        steps = [Step(early, self.shared_stride)]
        if splits_in_steps(extractor):
            steps = [Step(*step) for step in extractor.early_steps(self.shared_stride)]
        reaches = reaches_of(extractor, steps, images) if self.border == "padded" else None
        return SharedWindows(steps, self.size, reaches), self._in_late_dtype(late)

    def _early_precision(self, images: Tensor) -> AbstractContextManager[object]:
        return nullcontext() if self.late_dtype is None else torch.autocast(images.device.type, enabled=False)

    def _in_late_dtype(self, late: Part) -> Part:
        if self.late_dtype is None:
            return late

        def run(maps: Tensor) -> Tensor:
            with torch.autocast(maps.device.type, torch.bfloat16):
                return late(maps).float()

        return run

    def _in_turn(self, run: Callable[[T], Tensor], parts: Sequence[T], source: Tensor) -> Tensor:
        """Features (n, D) of parts, which ``run`` makes out of ``source``, one part after the other."""
        if len(parts) > 1 and self.recompute and torch.is_grad_enabled() and source.requires_grad:
            # Extractors are in eval mode: nothing random would have to be repeated.
            return torch.cat([checkpoint(run, part, use_reentrant=False, preserve_rng_state=False) for part in parts])
        return torch.cat([run(part) for part in parts])


def _at_least_float32(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))
