from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from basicsr.utils.registry import LOSS_REGISTRY

from d2sm_plugin.demo.segmentor import DEMO_CHECKPOINT, DEMO_CONFIG
from d2sm_plugin.errors import DataError, OptionError, ShapeError
from d2sm_plugin.losses import segmentation_loss
from d2sm_plugin.losses.segmentation_loss import SegmentationLoss
from d2sm_plugin.registry import build
from d2sm_plugin.scenes.street_scenes import render_scene
from d2sm_plugin.seg.openmmlab import find_config

pytest.importorskip("mmseg")

BLOCK = {"type": "SegmentationLoss", "config": DEMO_CONFIG, "checkpoint": f"package:{DEMO_CONFIG}"}


@pytest.fixture(scope="module")
def loss() -> SegmentationLoss:
    return build(LOSS_REGISTRY, {**BLOCK, "classes": "cityscapes"}, "train.seg_opt")


@pytest.fixture(scope="module")
def scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2, 3, 96, 192) of whole levels, and their labels."""
    rendered = [render_scene(seed, (96, 192)) for seed in (3, 4)]
    images = torch.from_numpy(np.stack([scene.image for scene in rendered])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(np.stack([scene.label for scene in rendered])).long()
    labels[:, :10] = 255
    return images / 255, labels


def noisy(images: torch.Tensor, sigma: float = 25) -> torch.Tensor:
    return images + sigma / 255 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def test_equals_the_cross_entropy_of_mmsegs_own_forward_pass(loss, scenes):
    from mmengine import Config
    from mmseg.apis import init_model
    from mmseg.structures import SegDataSample

    images, labels = scenes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = init_model(Config.fromfile(str(find_config(DEMO_CONFIG))), str(DEMO_CHECKPOINT), "cpu")
    levels = (images * 255).round().to(torch.uint8).flip(1)  # BGR, as mmseg reads files
    samples = [SegDataSample(metainfo={"img_shape": (96, 192), "ori_shape": (96, 192)}) for _ in levels]
    with torch.no_grad():
        prepared = model.data_preprocessor({"inputs": list(levels), "data_samples": samples}, False)
        logits = model.encode_decode(prepared["inputs"], [sample.metainfo for sample in samples])
        expected = F.cross_entropy(logits, labels, ignore_index=255)
        actual = loss(images, labels)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    assert loss.takes == ("restored", "label")


def test_the_gradient_reaches_the_images_alone(loss, scenes):
    images, labels = scenes
    images = noisy(images).requires_grad_()
    loss.train()
    loss(images, labels).backward()
    assert images.grad.isfinite().all() and (images.grad.abs().amax((1, 2, 3)) > 0).all()
    assert not loss.network.training and not any(part.training for part in loss.network.modules())
    assert all(p.grad is None and not p.requires_grad for p in loss.network.parameters())
    assert not list(loss.parameters()) and not list(loss.buffers()) and not loss.state_dict()


def test_the_gradient_is_that_of_the_value(loss, scenes):
    images, labels = noisy(scenes[0]), scenes[1]
    leaf = images.clone().requires_grad_()
    loss(leaf, labels).backward()
    with torch.no_grad():  # against steps along and against the gradient
        step = 0.02 * leaf.grad / leaf.grad.norm()
        slope = (loss(images + step, labels) - loss(images - step, labels)) / 2
    torch.testing.assert_close(slope, (leaf.grad * step).sum(), rtol=0.05, atol=0)


def test_pixels_that_do_not_count(loss, scenes):
    images, labels = scenes
    partly_labelled = torch.where(
        torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.5, 255, labels
    )
    logits = loss.network.logits(images).detach().requires_grad_()
    segmentor = loss.network
    loss.__dict__["network"] = Given(logits)
    try:
        value = loss(images, partly_labelled)
        value.backward()
    finally:
        loss.__dict__["network"] = segmentor
    assert (logits.grad.abs().sum(1) > 0)[partly_labelled != 255].all() and (
        logits.grad.movedim(1, 3)[partly_labelled == 255] == 0
    ).all()
    torch.testing.assert_close(value, F.cross_entropy(logits, partly_labelled, ignore_index=255))


class Given(torch.nn.Module):
    """Returns the same logits, whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.fixed = logits

    def logits(self, _images):
        return self.fixed


def test_a_batch_without_labels_gives_zero(loss, scenes):
    images = scenes[0].clone().requires_grad_()
    value = loss(images, torch.full_like(scenes[1], 255))
    value.backward()
    assert value == 0 and (images.grad == 0).all()


def test_descent_on_the_image_raises_the_accuracy(loss, scenes):
    images, labels = scenes
    counted = labels != 255

    def accuracy(batch):
        return (loss.network.predict(batch) == labels)[counted].float().mean().item()

    actual = noisy(images, 50).requires_grad_()
    before = accuracy(actual.detach())
    optimiser = torch.optim.Adam([actual], lr=0.02)
    for _ in range(5):
        optimiser.zero_grad()
        loss(actual, labels).backward()
        optimiser.step()
    assert accuracy(actual.detach()) > before + 0.1


def test_weight_moves_and_autocast(scenes):
    images, labels = scenes
    plain, weighted = (build(LOSS_REGISTRY, {**BLOCK, **extra}, "x") for extra in ({}, {"loss_weight": 0.25}))
    value = plain(images, labels)
    torch.testing.assert_close(weighted(images, labels), 0.25 * value)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(images, labels), value)
    plain.to(memory_format=torch.channels_last).double()
    assert {p.dtype for p in plain.network.parameters()} == {torch.float64}
    half = build(LOSS_REGISTRY, {**BLOCK, "amp": True}, "x")(images, labels)
    assert half.dtype == torch.float32 and abs(half - value) < 0.05 * value


def test_unlabelled_pixels_of_camvid(shared):
    """Value 11 does not count there, beside 255."""
    checkpoint = shared / "weights" / "hrnet18s_camvid11.pth"
    loss = SegmentationLoss("fcn_hr18s_camvid11", checkpoint)
    assert loss.classes.name == "camvid"
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 12, (1, 64, 64), generator=torch.Generator().manual_seed(0))
    labels[:, :5] = 255
    expected = F.cross_entropy(loss.network.logits(images), torch.where(labels == 11, 255, labels), ignore_index=255)
    torch.testing.assert_close(loss(images, labels), expected)


def test_mistakes(loss, scenes):
    images, labels = scenes
    with pytest.raises(ShapeError, match=r"expected labels \(B, H, W\)"):
        loss(images, labels[:, :-1])
    wrong = labels.clone()
    wrong[0, 20, 0] = 19
    with pytest.raises(DataError, match=r"label value 19 is none of the 19 classes 'cityscapes' .*ignored \(255\)"):
        loss(images, wrong)
    with pytest.raises(OptionError, match=r"11 classes, but the segmentation network has 19"):
        build(LOSS_REGISTRY, {**BLOCK, "classes": "camvid"}, "x")
    with pytest.raises(OptionError, match="did you mean 'checkpoint'"):
        build(LOSS_REGISTRY, {**BLOCK, "checkpiont": "x"}, "x")


def test_is_a_share_of_the_mean_over_the_joint_batch(loss, scenes, monkeypatch):
    images, labels = scenes
    labels = labels.clone()
    labels[1, 40:] = 255  # the second process has fewer labelled pixels
    whole = loss(images, labels)
    joint = (labels != 255).sum() / 2
    monkeypatch.setattr(segmentation_loss, "mean_over_processes", lambda number: joint)
    shares = [loss(images[i : i + 1], labels[i : i + 1]) for i in range(2)]
    torch.testing.assert_close((shares[0] + shares[1]) / 2, whole)
