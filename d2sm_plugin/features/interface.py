"""The contract between semantic feature extractors and the samplers, objectives and studies that use them.

An extractor is any callable from images to features; a raw ``nn.Module`` will do. Methods beyond that are optional, and
each of them is one protocol here. An extractor that has the method can be used wherever the method is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeGuard

from torch import Tensor

from d2sm_plugin.errors import OptionError

#: Layers of a network as a function: from images or maps to maps or features.
Part = Callable[[Tensor], Tensor]


class Extractor(Protocol):
    """Function from images (B, 3, H, W), RGB in [0, 1], to features (B, D), through which gradients flow."""

    def __call__(self, images: Tensor, /) -> Tensor: ...  # noqa: D102


class HasFeatureMap(Extractor, Protocol):
    """Extractor whose features have positions; spatial samples and spatial objectives need one."""

    def feature_map(self, images: Tensor, /) -> Tensor:
        """Feature map (B, C, h, w) of images (B, 3, H, W), RGB in [0, 1]."""
        ...


class HasFeatureMaps(Extractor, Protocol):
    """Extractor that gives several maps from one pass; objectives on several layers need one."""

    def feature_maps(self, images: Tensor, layers: Sequence[int | str], /) -> list[Tensor]:
        """Feature maps (B, C, h, w) of images (B, 3, H, W), RGB in [0, 1], by stride or name of a layer."""
        ...


class CanSplit(Extractor, Protocol):
    """Extractor that can be cut in two, so that windows of an image share its early layers."""

    def split(self, stride: int, /) -> tuple[Part, Part]:
        """Early part, images (B, 3, H, W) to maps (B, C, H / stride, W / stride), and late part, maps to (B, D)."""
        ...


class SplitsInSteps(CanSplit, Protocol):
    """Extractor whose early part comes in steps, behind each of which the borders of windows can be mended."""

    def early_steps(self, stride: int, /) -> Sequence[tuple[Part, int]]:
        """Early part of :meth:`split` in steps: the layers of each, and their stride."""
        ...


# From Python 3.12 on, isinstance with a protocol overlooks the methods that a module passes on from one inside it, as
# torch.compile(extractor) does; these functions do not.
def has_feature_map(extractor: Extractor) -> TypeGuard[HasFeatureMap]:
    """Tell if an extractor has feature maps."""
    return callable(getattr(extractor, "feature_map", None))


def has_feature_maps(extractor: Extractor) -> TypeGuard[HasFeatureMaps]:
    """Tell if an extractor gives several maps from one pass."""
    return callable(getattr(extractor, "feature_maps", None))


def can_split(extractor: Extractor) -> TypeGuard[CanSplit]:
    """Tell if an extractor can be cut in two."""
    return callable(getattr(extractor, "split", None))


def splits_in_steps(extractor: Extractor) -> TypeGuard[SplitsInSteps]:
    """Tell if an extractor's early part comes in steps."""
    return callable(getattr(extractor, "early_steps", None))


def feature_map_of(extractor: Extractor, where: str) -> Part:
    """Return the ``feature_map`` of an extractor.

    Args:
        extractor: that was chosen.
        where: class or argument that needs feature maps, for the message.

    Raises:
        OptionError: when the extractor has none.
    """
    if not has_feature_map(extractor):
        raise OptionError(
            f"{where}: {type(extractor).__name__} gives no feature map (it has no method feature_map); choose "
            f"TimmFeatures, or VGG19Features with a convolutional layer"
        )
    return extractor.feature_map
