"""The contract of extractors: which methods each has, and what the lack of one says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features import TimmFeatures, VGG19Features
from d2sm_plugin.features.interface import can_split, feature_map_of, has_feature_map, splits_in_steps


class Means(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class WithMap(Means):
    def feature_map(self, images: Tensor) -> Tensor:
        return images[:, :, ::8, ::8]


def test_own_extractors_have_every_method():
    for extractor in (TimmFeatures("test_resnet", weights=None), VGG19Features("conv1_1", weights=None)):
        assert has_feature_map(extractor) and can_split(extractor) and splits_in_steps(extractor)


def test_a_raw_network_has_none():
    assert not has_feature_map(Means()) and not can_split(Means()) and not splits_in_steps(Means())
    with pytest.raises(OptionError, match=r"ThisLoss\.extractor: Means gives no feature map"):
        feature_map_of(Means(), "ThisLoss.extractor")


def test_one_method_suffices():
    image = torch.rand(1, 3, 16, 16)
    assert not can_split(WithMap())
    assert torch.equal(feature_map_of(WithMap(), "here")(image), image[:, :, ::8, ::8])


def test_a_compiled_network_keeps_its_methods():
    assert has_feature_map(torch.compile(WithMap()))


def test_an_attribute_is_no_method():
    network = Means()
    network.split = 4
    assert not can_split(network)
