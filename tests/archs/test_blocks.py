from __future__ import annotations

import numpy as np
import pytest
import torch

from d2sm_plugin.archs.blocks import ResidualBlock, conv_act, conv_stack, make_activation, pad_to_multiple
from d2sm_plugin.errors import OptionError


@pytest.mark.parametrize(("mode", "numpy_mode"), [("replicate", "edge"), ("symmetric", "symmetric")])
@pytest.mark.parametrize("size", [(8, 16), (7, 9), (1, 3), (2, 17)])
def test_padding_equals_numpy(mode, numpy_mode, size):
    images = torch.rand(2, 3, *size)
    height, width = size
    expected = np.pad(images.numpy(), ((0, 0), (0, 0), (0, -height % 8), (0, -width % 8)), mode=numpy_mode)
    padded = pad_to_multiple(images, 8, mode)
    assert np.array_equal(padded.numpy(), expected)
    assert torch.equal(padded[..., :height, :width], images)


def test_padding_leaves_fitting_images_alone_and_refuses_unknown_modes():
    images = torch.rand(1, 1, 8, 8)
    assert pad_to_multiple(images, 4) is images
    assert pad_to_multiple(images, 4, "symmetric") is images
    with pytest.raises(OptionError, match="did you mean 'symmetric'"):
        pad_to_multiple(images, 3, "symetric")


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 1, 4), (5, 1, 2)])
def test_odd_kernels_keep_the_size(kernel, stride, dilation):
    layer = conv_act(2, 4, kernel, stride=stride, dilation=dilation)
    assert layer(torch.rand(1, 2, 11, 13)).shape == (1, 4, 11, 13)


def test_even_kernels_halve_the_size():
    assert conv_act(2, 4, 2, stride=2)(torch.rand(1, 2, 10, 12)).shape == (1, 4, 5, 6)


def test_stack_ends_as_told():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 8, 8)
    assert (conv_stack([3, 4, 4])(images) >= 0).all()
    assert (conv_stack([3, 4, 4], last_activation="none")(images) < 0).any()


def test_residual_block_by_hand():
    torch.manual_seed(0)
    images = torch.randn(1, 3, 6, 6)
    block = ResidualBlock(3, 8, "leaky_relu", scale=0.1)
    projected = block.project(images)
    hidden = torch.nn.functional.leaky_relu(block.conv1(projected), 0.2)
    torch.testing.assert_close(block(images), projected + 0.1 * block.conv2(hidden))
    assert len(ResidualBlock(4).state_dict()) == 4  # no projection where the channels agree


def test_unknown_activation():
    with pytest.raises(OptionError, match="activation 'rely' is unknown; did you mean 'relu'"):
        make_activation("rely")
