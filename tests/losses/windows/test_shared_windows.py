from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.losses import PatchSampler
from d2sm_plugin.losses.windows.window_reach import Reach, measure_reach


class Layers(nn.Module):
    """Early layers that look over the cells of their map, with even and odd paddings, and late ones."""

    def __init__(self, lopsided=False):
        super().__init__()
        torch.manual_seed(0)
        first = [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, stride=2)] if lopsided else [nn.Conv2d(3, 4, 3, 2, 1)]
        self.early = nn.Sequential(
            *first,
            nn.Softplus(),
            nn.Conv2d(4, 5, 5, padding=2),
            nn.Softplus(),
            nn.MaxPool2d(2),
            nn.Conv2d(5, 6, 3, 1, 1),
        ).double()
        self.late = nn.Sequential(nn.Tanh(), nn.Conv2d(6, 7, 3, padding=1)).double()

    def split(self, stride):
        assert stride == 4
        return self.early, lambda maps: self.late(maps).mean((2, 3))

    def forward(self, images):
        return self.late(self.early(images)).mean((2, 3))


class Steps(Layers):
    """The same layers, the early ones in two steps."""

    def early_steps(self, stride):
        assert stride == 4
        cut = len(self.early) - 2
        return [(self.early[:cut], 2), (self.early[cut:], 2)]


def images(height, width, layout=torch.contiguous_format):
    torch.manual_seed(1)
    restored, clear = (torch.rand(2, 3, height, width).double().contiguous(memory_format=layout) for _ in range(2))
    return restored.requires_grad_(), clear


def crop_and_shared(extractor, restored, clear, size, stride, **options):
    """Features and gradient of crop and shared."""
    collected = []
    for mode in ("crop", "shared"):
        sampler = PatchSampler(size, stride, mode=mode, **{"shared_stride": 4, **options})
        features, clear_features = sampler(extractor, restored, clear)
        weights = torch.linspace(-1, 1, features.numel(), dtype=features.dtype).view_as(features)
        collected.append((features, clear_features, *torch.autograd.grad((features * weights).sum(), restored)))
    return collected


@pytest.mark.parametrize("kind", [Layers, Steps])
@pytest.mark.parametrize("lopsided", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("height", "width", "size", "stride", "options"),
    [
        (72, 88, 40, 8, {}),
        (73, 91, 40, 8, {"max_patches": 5}),  # images that are no whole number of cells
        (72, 88, 40, 16, {"max_patches_per_chunk": 3}),
        (41, 50, 40, 8, {}),
        (40, 40, 12, 4, {}),  # the strips are nearly as large as the windows
        (24, 28, 8, 4, {}),  # every cell sees a border
    ],
)
def test_padded_borders_equal_crop(kind, lopsided, layout, height, width, size, stride, options):
    crop, shared = crop_and_shared(kind(lopsided), *images(height, width, layout), size, stride, **options)
    torch.testing.assert_close(shared, crop, rtol=1e-11, atol=1e-13)
    assert not shared[1].requires_grad


def test_open_borders_differ_from_crop():
    crop, shared = crop_and_shared(Layers(), *images(72, 88), 40, 8, border="open")
    assert not torch.allclose(crop[0], shared[0], rtol=1e-4)
    assert torch.allclose(crop[0], shared[0], rtol=0.3, atol=0.1)


def test_reach():
    example = torch.zeros(1, dtype=torch.float64)
    assert measure_reach(nn.Conv2d(3, 2, 3, 2, 1).double(), 2, example) == Reach(1, 1)
    assert measure_reach(nn.Conv2d(3, 2, 4, 4).double(), 4, example) == Reach(0, 3)
    lopsided = nn.Sequential(nn.ZeroPad2d((0, 2, 0, 1)), nn.Conv2d(3, 2, (4, 5), 3)).double()
    assert measure_reach(lopsided, 3, example) == Reach(0, 4)


def test_early_parts_that_see_the_whole_image():
    class Global(Layers):
        def split(self, stride):
            early, late = super().split(stride)
            return lambda x: early(x) * early(x).mean((2, 3), keepdim=True), late

    with pytest.raises(OptionError, match=r"shared_stride: up to stride 4 the extractor looks further than 48 pixels"):
        crop_and_shared(Global(), *images(72, 88), 40, 8)
    crop_and_shared(Global(), *images(72, 88), 40, 8, border="open")


@pytest.mark.parametrize(
    ("block", "strides"),
    [
        ({"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}, (8,)),
        ({"type": "TimmFeatures", "model": "resnet18", "weights": None}, (4, 8)),
        ({"type": "VGG19Features", "layer": "conv3_1", "weights": None, "pooling": "mean"}, (2, 4)),
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_real_extractors(block, strides, layout):
    torch.manual_seed(0)
    extractor = build_extractor(block, "test").double()
    for stride in strides:
        crop, shared = crop_and_shared(extractor, *images(72, 80, layout), 64, 8, max_patches=2, shared_stride=stride)
        torch.testing.assert_close(shared, crop, rtol=1e-9, atol=1e-11)
        steps = extractor.early_steps(stride)
        maps = images(64, 64)[0]
        expected = extractor.split(stride)[0](maps)
        for run, _ in steps:
            maps = run(maps)
        torch.testing.assert_close(maps, expected, rtol=1e-11, atol=1e-13)
        assert math.prod(step for _, step in steps) == stride


def test_steps_of_extractors():
    def strides(block):
        return [step for _, step in build_extractor({**block, "weights": None}, "test").early_steps(8)]

    assert strides({"type": "TimmFeatures", "model": "tf_efficientnet_lite0"}) == [2, 2, 2]
    assert strides({"type": "TimmFeatures", "model": "resnet18"}) == [4, 2]  # its stem is no stage to cut behind
    assert strides({"type": "VGG19Features", "layer": "conv4_1"}) == [2, 2, 2]


@pytest.mark.parametrize("chunks", [{}, {"max_patches_per_chunk": 5}, {"max_patches_per_chunk": 5, "recompute": False}])
@pytest.mark.parametrize("mode", ["crop", "shared"])
def test_windows_in_chunks(mode, chunks):
    block = {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}
    torch.manual_seed(0)
    extractor = build_extractor(block, "test").to(memory_format=torch.channels_last)
    restored, clear = (image.detach().float() for image in images(64, 72, torch.channels_last))
    restored.requires_grad_()
    collected = []
    for options in ({}, {"mode": mode, **chunks}):
        features, _ = PatchSampler(56, 8, **options)(extractor, restored, clear)
        collected.append(torch.autograd.grad(features.square().sum(), restored)[0])
    assert (collected[1] - collected[0]).norm() < 1e-4 * collected[0].norm()


def test_border_option():
    with pytest.raises(OptionError, match=r"PatchSampler\.border: 'opened' is unknown; did you mean 'open'"):
        PatchSampler(border="opened")


@pytest.mark.parametrize("chunks", [{}, {"max_patches_per_chunk": 5}])
@pytest.mark.parametrize("autocast", [False, True])
def test_late_layers_in_bfloat16(chunks, autocast):
    extractor = build_extractor({"type": "TimmFeatures", "model": "resnet18", "weights": None}, "test")
    restored, clear = (image.float().detach() for image in images(64, 68))
    seen = []
    extractor.network.conv1.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    extractor.network.layer3.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))

    def gradient(**options):
        restored.requires_grad_()
        sampler = PatchSampler(56, 4, mode="shared", **options)
        features, clear_features = sampler(extractor, restored, clear)
        assert features.dtype == clear_features.dtype == torch.float32
        return torch.autograd.grad((features - clear_features).square().sum(), restored)[0].flatten()

    exact = gradient()
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rounded = gradient(late_dtype="bfloat16", **chunks)
    assert seen[0] == torch.float32 and set(seen) == {torch.float32, torch.bfloat16}
    assert 0.98 < torch.cosine_similarity(rounded, exact, 0) < 1


def test_late_dtype_option():
    with pytest.raises(OptionError, match=r"late_dtype: expected bfloat16 with mode 'shared', or null; got 'bfloat16'"):
        PatchSampler(late_dtype="bfloat16")
    with pytest.raises(OptionError, match=r"late_dtype: .*got 'half'"):
        PatchSampler(mode="shared", late_dtype="half")
