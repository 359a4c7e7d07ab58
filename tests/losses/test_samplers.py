from __future__ import annotations

import copy

import pytest
import torch
from d2sm_reference import TinyExtractor
from torch import nn

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.losses import PatchSampler, SpatialSampler


class Pixels(nn.Module):
    """All values of an image as its feature."""

    def forward(self, images):
        return images.flatten(1)

    def feature_map(self, images):
        return images


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(batch=2, height=11, width=14):
    return torch.rand(batch, 3, height, width, requires_grad=True), torch.rand(batch, 3, height, width)


def test_windows_are_slices_row_by_row():
    restored, clear = images()
    features, clear_features = PatchSampler(size=5, stride=3)(Pixels(), restored, clear)
    assert features.shape == clear_features.shape == (2, 3 * 4, 3 * 5 * 5)
    for index in range(2):
        position = 0
        for top in (0, 3, 6):
            for left in (0, 3, 6, 9):
                window = (index, slice(None), slice(top, top + 5), slice(left, left + 5))
                assert torch.equal(features[index, position], restored[window].flatten())
                assert torch.equal(clear_features[index, position], clear[window].flatten())
                position += 1


@pytest.mark.parametrize(
    ("height", "width", "count"), [(512, 512, 36), (1024, 2048, 495), (256, 256, 1), (224, 279, 1), (224, 280, 2)]
)
def test_number_of_windows_of_the_paper(height, width, count):
    assert len(PatchSampler().windows(height, width)) == count


def test_gradient_reaches_the_restored_image_only():
    restored, clear = images()
    clear.requires_grad_()
    for sampler in (PatchSampler(size=8, stride=2), SpatialSampler()):
        features, clear_features = sampler(TinyExtractor(), restored, clear)
        assert features.requires_grad and not clear_features.requires_grad


def test_drawn_windows_are_the_same_everywhere_and_differ_by_call():
    repeated = torch.rand(1, 3, 20, 20).repeat(3, 1, 1, 1)
    sampler, other_rank = (PatchSampler(size=4, stride=2, max_patches=6) for _ in range(2))
    draws = []
    for _ in range(3):
        features, clear_features = sampler(Pixels(), repeated, repeated)
        assert features.shape == (3, 6, 48)
        assert torch.equal(features, clear_features) and torch.equal(features[0], features[2])
        assert torch.equal(features, other_rank(Pixels(), repeated, repeated)[0])
        draws.append(features)
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])
    assert not torch.equal(
        draws[0], PatchSampler(size=4, stride=2, max_patches=6, seed=1)(Pixels(), repeated, repeated)[0]
    )


def test_drawn_windows_keep_the_row_major_order_and_are_distinct():
    sampler = PatchSampler(size=4, stride=2, max_patches=30)
    all_windows = PatchSampler(size=4, stride=2).windows(20, 20)
    drawn = sampler.windows(20, 20)
    assert len(set(drawn)) == 30 and drawn == sorted(drawn) and set(drawn) <= set(all_windows)
    assert sampler.windows(8, 8) == PatchSampler(size=4, stride=2).windows(8, 8)


@pytest.mark.parametrize("sampler", [PatchSampler(size=4, stride=2, max_patches=5), SpatialSampler(max_positions=5)])
def test_draws_resume_exactly_and_validation_leaves_no_trace(sampler):
    restored, clear = images(1, 20, 20)

    def draw(module):
        return module(Pixels(), restored, clear)[0]

    draw(sampler)
    stored = copy.deepcopy(sampler.state_dict())
    fresh = copy.deepcopy(sampler)
    draw(fresh)
    fresh.load_state_dict(stored)
    sampler.eval()
    in_eval = draw(sampler)
    assert torch.equal(in_eval, draw(sampler))
    sampler.train()
    with torch.no_grad():
        assert torch.equal(in_eval, draw(sampler))
    for _ in range(3):
        assert torch.equal(draw(sampler), draw(fresh))


def test_draws_do_not_touch_the_global_generator():
    before = torch.get_rng_state()
    PatchSampler(size=4, stride=2, max_patches=5).windows(20, 20)
    assert torch.equal(before, torch.get_rng_state())


def test_generator_state_stays_in_main_memory():
    sampler = PatchSampler(max_patches=2).half().to("meta")
    assert sampler.generator_state.device.type == "cpu" and sampler.generator_state.dtype == torch.uint8


def test_positions_are_samples_row_by_row():
    restored, clear = images(2, 4, 5)
    features, clear_features = SpatialSampler()(Pixels(), restored, clear)
    assert features.shape == (2, 20, 3)
    for position in range(20):
        assert torch.equal(features[:, position], restored[:, :, position // 5, position % 5])
        assert torch.equal(clear_features[:, position], clear[:, :, position // 5, position % 5])


def test_drawn_positions_are_the_same_of_both_images():
    image = torch.rand(2, 3, 20, 20)
    features, clear_features = SpatialSampler(max_positions=7)(Pixels(), image, image)
    assert features.shape == (2, 7, 3) and torch.equal(features, clear_features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, r"PatchSampler\.size: expected a positive integer, got 0"),
        ({"stride": 2.0}, r"PatchSampler\.stride: expected a positive integer, got 2\.0"),
        ({"max_patches": 0}, "PatchSampler: expected at least 1 samples of an image"),
        ({"max_patches": 2, "scope": "image"}, "PatchSampler: expected at least 3 samples of an image"),
        ({"max_patches_per_chunk": 0}, r"PatchSampler\.max_patches_per_chunk: expected a positive integer, got 0"),
        ({"scope": "images"}, r"PatchSampler\.scope: 'images' is unknown; did you mean 'image'\?"),
        ({"mode": "crops"}, r"PatchSampler\.mode: 'crops' is unknown; did you mean 'crop'\?"),
    ],
)
def test_patch_sampler_options(options, message):
    with pytest.raises(OptionError, match=message):
        PatchSampler(**options)


class LocalExtractor(nn.Module):
    """Its early part looks at no neighbours across the cells of its map: sharing it is exact."""

    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 5, 2, stride=2), nn.Sequential(nn.Tanh(), nn.Conv2d(5, 7, 3, padding=1))

    def split(self, stride):
        assert stride == 2
        return self.early, lambda maps: self.late(maps).mean((2, 3))

    def forward(self, images):
        return self.late(self.early(images)).mean((2, 3))


@pytest.mark.parametrize("max_patches", [None, 5])
def test_shared_windows_are_cut_out_of_the_map(max_patches):
    restored, clear = images(2, 20, 27)
    extractor = LocalExtractor()
    crop, shared = (
        PatchSampler(8, 4, max_patches, mode=mode, shared_stride=2)(extractor, restored, clear)
        for mode in ("crop", "shared")
    )
    for expected, actual in zip(crop, shared, strict=True):
        torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(features.square().sum(), restored)[0] for features in (crop[0], shared[0])]
    torch.testing.assert_close(*gradients)
    assert not shared[1].requires_grad


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("options", [{}, {"mode": "shared", "shared_stride": 2}, {"max_patches": 7}])
def test_chunks_give_the_same(options, recompute):
    restored, clear = (image.double() for image in images(2, 20, 27))
    restored = restored.detach().requires_grad_()
    extractor = LocalExtractor().double()
    collected = []
    for chunk in (None, 1, 5, 100):
        sampler = PatchSampler(8, 4, max_patches_per_chunk=chunk, recompute=recompute, **options)
        features, clear_features = sampler(extractor, restored, clear)
        collected.append((features, clear_features, *torch.autograd.grad(features.square().sum(), restored)))
    for in_chunks in collected[1:]:
        torch.testing.assert_close(in_chunks, collected[0], rtol=1e-12, atol=1e-14)


def test_recomputed_chunks_keep_no_activations():
    restored, clear = images(1, 20, 20)
    kept = {}
    for recompute in (True, False):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, saved=saved: saved.append(tensor) or tensor, id):
            PatchSampler(8, 1, max_patches_per_chunk=2, recompute=recompute)(TinyExtractor(), restored, clear)
        kept[recompute] = sum({tensor.data_ptr(): tensor.numel() for tensor in saved}.values())
    assert kept[True] < kept[False] / 5


def test_windows_keep_the_layout_of_the_images():
    class Layout(nn.Module):
        def forward(self, images):
            assert images.is_contiguous(memory_format=torch.channels_last)
            return images.flatten(1)

    restored, clear = (image.contiguous(memory_format=torch.channels_last) for image in images(2, 12, 12))
    PatchSampler(8, 2, max_patches_per_chunk=3)(Layout(), restored, clear)


def test_shared_stride_must_divide():
    with pytest.raises(OptionError, match=r"16 must divide size 224 and stride 56 .*choose a divisor of 56"):
        PatchSampler(mode="shared", shared_stride=16)
    with pytest.raises(OptionError, match=r"'shared' needs an extractor .* but Pixels has no method split"):
        PatchSampler(8, 4, mode="shared")(Pixels(), *images())


def test_exceptions():
    restored, clear = images()
    with pytest.raises(ShapeError, match="windows of 224x224 do not fit into images of 11x14"):
        PatchSampler()(Pixels(), restored, clear)
    with pytest.raises(ShapeError, match="at least 3, and an image of 11x14 has 2 of size 11, stride 3"):
        PatchSampler(size=11, stride=3, scope="image")(Pixels(), restored, clear)
    with pytest.raises(OptionError, match="Flatten gives no feature map"):
        SpatialSampler()(nn.Flatten(), restored, clear)
    with pytest.raises(ShapeError, match="at least 3, and its feature map is 1x2"):
        SpatialSampler(scope="image")(Pixels(), restored[..., :1, :2], clear[..., :1, :2])
    with pytest.raises(OptionError, match=r"SpatialSampler\.scope"):
        SpatialSampler(scope="all")
