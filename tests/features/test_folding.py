from __future__ import annotations

import pytest
import torch
from torch import nn

from d2sm_plugin.features.folding import fold_batchnorm
from d2sm_plugin.features.timm_features import TimmFeatures


def stirred(network):
    """Running statistics and weights unlike those of a fresh network."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    return network.eval()


@pytest.mark.parametrize(("model", "left"), [("tf_efficientnet_lite0", 0), ("resnet18", 0), ("convnext_atto", 0)])
def test_the_function_stays(model, left):
    torch.manual_seed(0)
    extractor = stirred(TimmFeatures(model, None, fold=False)).double()
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    expected = extractor(image)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), image)
    fold_batchnorm(extractor, image.detach())
    assert sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in extractor.modules()) == left
    actual = extractor(image)
    (gradient,) = torch.autograd.grad(actual.square().sum(), image)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-12)


def test_only_what_may_be_folded_is_folded():
    class Branches(nn.Module):
        """One convolution with two takers, one that runs twice, one with something in between, one plain."""

        def __init__(self):
            super().__init__()
            self.shared, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.twice, self.of_twice = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.far, self.of_far = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.plain, self.of_plain = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.shared(x)
            x = self.first(x) + self.second(x)
            x = self.of_twice(self.twice(self.of_twice(self.twice(x))))
            return self.of_plain(self.plain(self.of_far(self.far(x).tanh())))

    torch.manual_seed(0)
    network, image = stirred(Branches()), torch.rand(1, 3, 4, 4)
    expected = network(image)
    assert fold_batchnorm(network, image) == 1
    assert isinstance(network.of_far, nn.BatchNorm2d) and not isinstance(network.of_plain, nn.BatchNorm2d)
    torch.testing.assert_close(network(image), expected)


def test_folded_extractors_stay_frozen():
    extractor = TimmFeatures("tf_efficientnet_lite0", None)
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not any(module.training for module in extractor.train().modules())
