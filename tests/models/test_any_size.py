from __future__ import annotations

import gc
import warnings

import pytest
import torch
import torch.nn.functional as F
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.models import any_size
from d2sm_plugin.models.any_size import MULTIPLES, forward_any_size
from d2sm_plugin.models.restore import restore_batch


class Wants(nn.Module):
    """Adds a constant to images whose sides are multiples of a number, and fails on others as real networks do."""

    def __init__(self, multiple, scale=1, least=1, how="assert"):
        super().__init__()
        self.multiple, self.scale, self.least, self.how = multiple, scale, least, how
        self.sizes = []

    def forward(self, images):
        height, width = images.shape[-2:]
        self.sizes.append((height, width))
        fits = height % self.multiple == 0 and width % self.multiple == 0 and min(height, width) >= self.least
        if not fits and self.how == "floor":  # a network of several scales that drops the rest
            images = images[..., : height // self.multiple * self.multiple, : width // self.multiple * self.multiple]
        elif not fits:
            raise AssertionError("invalid spatial dimensions")
        return F.interpolate(images + 1, scale_factor=self.scale) if self.scale > 1 else images + 1


def run(network, images):
    return forward_any_size(network, network, (images,))


@pytest.mark.parametrize("how", ["assert", "floor"])
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("multiple", [2, 7, 8, 24, 64])
def test_odd_sizes_are_padded_and_cropped_back(multiple, scale, how):
    network = Wants(multiple, scale, how=how)
    for size in ((95, 61), (1, 200), (3, 3), (multiple, multiple), (96, 90)):
        if how == "floor" and min(size) < multiple * scale:
            continue  # so small that a smaller scale would explain the size of the result
        images = torch.rand(2, 3, *size)
        expected = images.repeat_interleave(scale, -2).repeat_interleave(scale, -1) + 1
        assert torch.equal(run(network, images), expected)
        assert all(side % multiple == 0 for side in network.sizes[-1])


def test_least_multiple_is_found_once():
    network = Wants(8)
    run(network, torch.rand(1, 3, 95, 61))
    assert network.sizes[-1] == (96, 64)
    assert len(network.sizes) == 2 + MULTIPLES.index(8) + 1  # refused, one trial a number, done
    network.sizes.clear()
    run(network, torch.rand(1, 3, 95, 61))
    assert network.sizes == [(96, 64)]
    run(network, torch.rand(1, 3, 41, 16))
    assert network.sizes[1:] == [(41, 16), (48, 16)]


def test_pictures_below_the_smallest_size():
    network = Wants(1, least=16)
    images = torch.rand(1, 3, 5, 40)
    assert torch.equal(run(network, images), images + 1)


def test_padding_is_by_reflection():
    network = Wants(8)
    seen = []
    images = torch.arange(5.0)[None, None, None]
    forward_any_size(network, lambda images: seen.append(images) or network(images), (images,))
    assert seen[-1][0, 0].tolist() == [[0, 1, 2, 3, 4, 3, 2, 1]] * 8


def test_result_does_not_depend_on_what_came_before():
    """A size that passes is never padded, whatever another one needed."""
    network = Wants(8)
    network.forward = lambda images: Wants.forward(network, images) if images.shape[-1] != 90 else images * 2
    images = torch.rand(1, 3, 90, 90)
    alone = run(network, images)
    run(network, torch.rand(1, 3, 95, 61))
    assert torch.equal(run(network, images), alone) and torch.equal(alone, images * 2)


def test_entries_of_the_same_size_are_padded_alike():
    network = Wants(4)
    seen = []

    def forward(images, level_map, sigma):
        seen.append((level_map.shape, sigma.shape))
        return network(images) + sigma

    images, sigma = torch.rand(1, 3, 6, 7), torch.rand(1, 1, 1, 1)
    restored = forward_any_size(network, forward, (images, torch.rand(1, 1, 6, 7), sigma))
    assert torch.equal(restored, images + 1 + sigma)
    assert seen[-1] == ((1, 1, 8, 8), (1, 1, 1, 1))


def test_failures_of_every_size_have_one_line():
    class Broken(nn.Module):
        def forward(self, images):
            raise TypeError("unsupported operand\nin two lines")

    with pytest.raises(ShapeError, match=r"Broken fails on images of 6x7 .*: TypeError: unsupported operand in two l"):
        run(Broken(), torch.rand(1, 3, 6, 7))


def test_want_of_memory_is_not_tried_again():
    class Greedy(nn.Module):
        def forward(self, images):
            self.calls = getattr(self, "calls", 0) + 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    network = Greedy()
    with pytest.raises(torch.OutOfMemoryError):
        run(network, torch.rand(1, 3, 6, 7))
    assert network.calls == 1


def test_findings_go_with_their_network():
    network = Wants(2)
    run(network, torch.rand(1, 3, 3, 3))
    known = len(any_size._known)
    del network
    gc.collect()
    assert len(any_size._known) < known


HOST = {
    "RRDBNet": {"num_in_ch": 3, "num_out_ch": 3, "scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "SwinIR": {
        **{"img_size": 32, "window_size": 8, "depths": [2], "embed_dim": 12, "num_heads": [2], "mlp_ratio": 2},
        **{"upsampler": "", "upscale": 1},
    },
    "SwinIR7": {
        **{"img_size": 28, "window_size": 7, "depths": [1], "embed_dim": 12, "num_heads": [2], "mlp_ratio": 2},
        **{"upsampler": "", "upscale": 1},
    },
}


@pytest.mark.parametrize("name", HOST)
@pytest.mark.parametrize("tile", [None, 48])
def test_networks_of_the_host_take_any_size(name, tile):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = ARCH_REGISTRY.get(name.rstrip("7"))(**HOST[name]).eval()
    scale = 2 if name == "RRDBNet" else 1
    for size in ((96, 90), (95, 61), (64, 64)):
        images = torch.rand(1, 3, *size)
        restored = restore_batch(network, {"lq": images}, tile, 16)
        assert restored.shape[-2:] == (scale * size[0], scale * size[1])
        if size == (64, 64) and tile is None and name != "SwinIR7":
            with torch.inference_mode():
                assert torch.equal(restored, network(images))
