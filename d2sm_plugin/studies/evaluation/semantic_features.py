"""Semantic features of whole sets of images, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from d2sm_plugin.errors import DataError, OptionError, ShapeError
from d2sm_plugin.studies.evaluation.methods import Method, read_like
from d2sm_plugin.studies.evaluation.semantic_views import View


@dataclass(frozen=True)
class Samples:
    """Features of all samples of a set of images.

    Attributes:
        features: (N, D), float32, in the order of the images and of their windows or positions.
        image: (N,), number of the image that each sample comes from.
    """

    features: Tensor
    image: Tensor

    def __len__(self) -> int:
        return len(self.features)


def collect_samples(
    method: Method, clean: Method, keys: Sequence[str], views: Sequence[View], title: str
) -> list[Samples]:
    """Return the samples of a method's images, one set for each view; every image is read or restored once.

    Args:
        method: gives the images.
        clean: the clear ones, whose size they must have.
        keys: of the images.
        views: what is taken of them.
        title: of the progress bar.

    Raises:
        DataError: when an image has another size than the clear one, or features that are no finite numbers.
        ShapeError: when an image does not fit a view.
    """
    features: list[list[Tensor]] = [[] for _ in views]
    for key in tqdm(keys, desc=title, unit="image", dynamic_ncols=True, leave=False, disable=None):
        image = read_like(method, key, clean.read(key))
        for view, parts in zip(views, features, strict=True):
            try:
                samples = view.samples(image)
            except ShapeError as error:
                raise ShapeError(f"{method.describe(key)}, extractor '{view.name}': {error}") from None
            if not samples.isfinite().all():
                raise DataError(
                    f"{method.describe(key)}: extractor '{view.name}' gives features that are no finite numbers"
                )
            if parts and parts[0].shape[1] != samples.shape[1]:
                raise DataError(
                    f"{method.describe(key)}: extractor '{view.name}' gives {samples.shape[1]} features here and "
                    f"{parts[0].shape[1]} for '{keys[0]}'; pool them, or take images of one size"
                )
            parts.append(samples)
    return [_joined(parts) for parts in features]


def groups_of(samples: Samples, view: View, size: int | None) -> list[Tensor]:
    """Divide samples into groups within which they are compared: index tensors that together hold each sample once.

    Args:
        samples: of the clear images.
        view: with scope ``image`` each image is a group.
        size: largest number of samples in a group; None puts all into one. Samples are dealt out in an order drawn
            once for all with a fixed seed, so that a group holds samples of many images, as a queue does.

    Raises:
        OptionError: for a size that cannot be used, or a group of a single sample, which has no neighbours.
    """
    if view.within_images:
        if size is not None:
            raise OptionError(
                f"--group: extractor '{view.name}' compares samples within each image (scope 'image'); leave --group "
                f"out, or set scope 'batch'"
            )
        groups = [torch.nonzero(samples.image == number)[:, 0] for number in samples.image.unique()]
    elif size is None:
        groups = [torch.arange(len(samples))]
    else:
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
        groups = [part.sort().values for part in order.tensor_split(-(-len(samples) // max(1, size)))]
    if min(map(len, groups)) < 2:
        raise OptionError(
            f"extractor '{view.name}': a group holds a single sample, which has no neighbours; take more images, "
            f"smaller windows or a larger --group"
        )
    return groups


def _joined(parts: Sequence[Tensor]) -> Samples:
    image = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([len(part) for part in parts]))
    return Samples(torch.cat(list(parts)), image)
