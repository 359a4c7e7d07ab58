"""Views: the feature space and the samples of an image in which sets of images are compared, as a training has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from d2sm_plugin.custom_imports import import_from
from d2sm_plugin.errors import OptionError
from d2sm_plugin.features.interface import HasFeatureMaps
from d2sm_plugin.losses import D2SMLoss, PatchSampler
from d2sm_plugin.losses.multi_layer_d2sm_loss import MultiLayerD2SMLoss
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.registry import build
from d2sm_plugin.safe_yaml import parse_yaml
from d2sm_plugin.studies.evaluation.methods import Image

_KINDS = ("D2SMLoss", "MultiLayerD2SMLoss")
# What makes no difference to the features of one image.
_NOT_OF_A_VIEW = ("type", "queue", "takes", "divergence", "reduction", "loss_weight")
# Windows in one pass of the extractor, where the option block sets no number: large frames hold thousands.
_WINDOWS_AT_ONCE = 32


@dataclass(frozen=True)
class View:
    """A feature extractor and the samples that are taken of an image.

    Attributes:
        name: of the view.
        objective: holds extractor and sampler, as in training; without a queue, and without a random choice of
            samples: every window or position counts.
        device: where the extractor runs.
    """

    name: str
    objective: D2SMLoss
    device: str

    @property
    def within_images(self) -> bool:
        """True if samples are compared with those of the same image only (scope ``image``)."""
        return self.objective.patches is not None and self.objective.patches.scope == "image"

    @torch.no_grad()
    def samples(self, image: Image) -> Tensor:
        """Features (P, D), float32, of the samples of a uint8 RGB image (H, W, 3).

        Raises:
            OptionError: when the sampler and the extractor do not fit each other.
            ShapeError: when the image is too small.
        """
        images = torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device).float() / 255
        images = images.contiguous(memory_format=torch.channels_last)
        extractor, sampler = self.objective.extractor, self.objective.patches
        if sampler is None:
            features = extractor(images)
        elif isinstance(sampler, PatchSampler):
            features = sampler.features(extractor, images, sampler.windows(*image.shape[:2]))[0]
        else:
            features = sampler(extractor, images, images)[0][0]
        return features.float()


def read_views(entries: Sequence[str], device: str) -> list[View]:
    """Build the views that a command line names.

    Args:
        entries: each ``[NAME=]SOURCE``. A source is an option file with one ``D2SMLoss`` or ``MultiLayerD2SMLoss``
            under ``train``, a YAML file that holds such a block (by itself or under the key ``d2sm_opt``), or the block
            itself as ``{...}``. A block of an extractor alone takes whole images as samples; one of several layers
            makes a view of each.
        device: where the extractors run.

    Raises:
        OptionError: for a source that cannot be read or built, or a name that is taken twice.
    """
    views = [view for entry in entries for view in _read_entry(entry, device)]
    names = [view.name for view in views]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise OptionError(
            f"--extractor: the name '{repeated[0]}' is taken twice; write NAME=SOURCE with a name of its own for each"
        )
    return views


def _read_entry(entry: str, device: str) -> list[View]:
    match = re.match(r"([^={}]+)=(.+)", entry, flags=re.DOTALL)
    name, source = (match[1], match[2]) if match else (None, entry)
    if source.lstrip().startswith("{"):
        block, where = parse_yaml(source, "--extractor"), "--extractor"
        if not isinstance(block, dict):
            raise OptionError(f"--extractor {source}: expected a block {{key: value, ...}}")
    else:
        content = read_option_file(source).content
        import_from(content)
        block, where = _block_in_file(content, source), source
    if "extractor" not in block:
        block = {"extractor": block}
    arguments = {key: value for key, value in block.items() if key not in _NOT_OF_A_VIEW}
    if block.get("type") == "MultiLayerD2SMLoss":
        several: MultiLayerD2SMLoss = build(LOSS_REGISTRY, {"type": "MultiLayerD2SMLoss", **arguments}, where)
        title = name or type(several.network).__name__
        return [
            _view(
                f"{title} {layer}",
                D2SMLoss(_Layer(several.network, layer), patches=cast(D2SMLoss, term).patches),
                device,
            )
            for layer, term in zip(several.layers, several.terms, strict=True)
        ]
    objective: D2SMLoss = build(LOSS_REGISTRY, {"type": "D2SMLoss", **arguments}, where)
    return [_view(name or type(objective.extractor).__name__, objective, device)]


class _Layer(nn.Module):
    """One of the maps of a network, as the only one."""

    def __init__(self, network: nn.Module, layer: int | str) -> None:
        super().__init__()
        self.network, self.layer = network, layer

    def feature_map(self, images: Tensor) -> Tensor:
        return cast(HasFeatureMaps, self.network).feature_maps(images, [self.layer])[0]


def _view(name: str, objective: D2SMLoss, device: str) -> View:
    objective.eval().to(device)
    objective.extractor.to(memory_format=torch.channels_last)
    sampler = objective.patches
    if sampler is not None:
        sampler.limit = None
    if isinstance(sampler, PatchSampler):
        sampler.chunk = sampler.chunk or _WINDOWS_AT_ONCE
    return View(name, objective, device)


def _block_in_file(content: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    if "d2sm_opt" in content:
        content = {"train": {"d2sm_opt": content["d2sm_opt"]}}
    if "train" not in content:
        return content
    objectives = content["train"] if isinstance(content["train"], dict) else {}
    blocks = [key for key, block in objectives.items() if isinstance(block, dict) and block.get("type") in _KINDS]
    if len(blocks) != 1:
        raise OptionError(
            f"{path}: expected one objective of type {' or '.join(_KINDS)} under 'train', found {len(blocks)}; "
            f"name another file, or put the block into a file of its own"
        )
    return objectives[blocks[0]]
