from __future__ import annotations

import sys

import numpy as np
import pytest
import pytorch_msssim
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from skimage.metrics import structural_similarity

from d2sm_plugin.errors import DependencyError, ShapeError
from d2sm_plugin.losses.ssim_loss import MSSSIMLoss, SSIMLoss
from d2sm_plugin.registry import build


def pair(size: int = 24, batch: int = 2, noise: float = 0.1, dtype: torch.dtype = torch.float64):
    """Smooth images and noisy copies."""
    torch.manual_seed(size)
    coarse = torch.rand(batch, 3, 5, 5, dtype=dtype)
    clear = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (clear + noise * torch.randn_like(clear)).clamp(0, 1), clear


def torchmetrics_similarity(restored, clear):
    """Mean where the window is inside the image; torchmetrics reflects the image at its borders."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    options = {"gaussian_kernel": True, "sigma": 1.5, "data_range": 1.0, "return_full_image": True}
    _, similarity = structural_similarity_index_measure(restored, clear, **options)
    return similarity[..., 5:-5, 5:-5].mean((1, 2, 3))


def test_equals_torchmetrics():
    restored, clear = pair()
    expected = torchmetrics_similarity(restored, clear).mean()
    torch.testing.assert_close(SSIMLoss()(restored, clear), 1 - expected, rtol=1e-6, atol=1e-7)
    assert 0.05 < expected < 0.95


def test_equals_scikit_image_where_the_window_is_inside():
    restored, clear = pair(32, batch=1)
    _, similarity = structural_similarity(
        *(images[0].permute(1, 2, 0).numpy() for images in (restored, clear)),
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0, channel_axis=2, full=True,
    )  # fmt: skip
    inside = similarity[5:-5, 5:-5].mean()
    assert abs(SSIMLoss()(restored, clear).item() - (1 - inside)) < 1e-6
    assert abs(similarity.mean() - inside) > 1e-4  # the borders matter


def test_five_scales_equal_torchmetrics():
    """Contrast and structure at four scales and the whole similarity at the fifth, each channel by itself."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    restored, clear = pair(176, batch=2)
    planes = [images.flatten(0, 1)[:, None] for images in (restored, clear)]
    options = {"data_range": 1.0, "reduction": "none", "return_contrast_sensitivity": True}
    product = torch.ones(6, dtype=torch.float64)
    for weight in (0.0448, 0.2856, 0.3001, 0.2363):
        _, contrast = structural_similarity_index_measure(*planes, **options)
        product *= contrast.relu() ** weight
        planes = [torch.nn.functional.avg_pool2d(images, 2) for images in planes]
    product *= torchmetrics_similarity(*planes).relu() ** 0.1333
    # The weights of pytorch-msssim's window are float32; where an image is flat, that shows beside C2.
    torch.testing.assert_close(MSSSIMLoss()(restored, clear), 1 - product.mean(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("objective", "size"), [(SSIMLoss, 16), (MSSSIMLoss, 161)])
def test_zero_for_equal_images_and_of_positive_sign(objective, size):
    restored, clear = pair(size, batch=1)
    assert objective()(clear, clear).abs() < 1e-7
    values = [objective()(pair(size, batch=1, noise=noise)[0], clear) for noise in (0.02, 0.1, 0.4)]
    assert 0 < values[0] < values[1] < values[2] < 1
    torch.testing.assert_close(objective(loss_weight=0.3)(restored, clear), 0.3 * objective()(restored, clear))


def test_gradient():
    restored, clear = pair(12, batch=1)
    assert torch.autograd.gradcheck(lambda x: SSIMLoss()(x, clear), (restored.requires_grad_(),))


@pytest.mark.parametrize(("objective", "size"), [(SSIMLoss, 24), (MSSSIMLoss, 161)])
def test_descent_raises_the_similarity(objective, size):
    restored, clear = pair(size, batch=1, dtype=torch.float32)
    before = structural_similarity(*(image[0].numpy() for image in (restored, clear)), data_range=1.0, channel_axis=0)
    restored.requires_grad_()
    optimiser = torch.optim.Adam([restored], lr=0.01)
    for _ in range(5):
        optimiser.zero_grad()
        objective()(restored, clear).backward()
        optimiser.step()
    images = [image.detach()[0].numpy().astype(np.float64) for image in (restored, clear)]
    assert structural_similarity(*images, data_range=1.0, channel_axis=0) > before + 0.02


def test_negative_images_have_a_finite_gradient():
    _, clear = pair(161, batch=1)
    restored = (1 - clear).requires_grad_()
    MSSSIMLoss()(restored, clear).backward()
    assert restored.grad.isfinite().all()


def test_full_precision_under_autocast():
    restored, clear = pair(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        value = SSIMLoss()(restored, clear)
    assert value.dtype == torch.float32 and torch.equal(value, SSIMLoss()(restored, clear))
    half = SSIMLoss()(restored.bfloat16(), clear.bfloat16())
    assert half.dtype == torch.float32 and abs(half - value) < 0.01


def test_one_channel():
    restored, clear = (images[:, :1] for images in pair())
    assert 0 < SSIMLoss()(restored, clear) < 1


def test_mistakes():
    restored, clear = pair(160)
    with pytest.raises(ShapeError, match=r"MSSSIMLoss: images of 160x160 .* 161 pixels; set datasets\.train\.gt_size"):
        MSSSIMLoss()(restored, clear)
    with pytest.raises(ShapeError, match=r"SSIMLoss: images of 10x160 are too small"):
        SSIMLoss()(restored[:, :, :10], clear[:, :, :10])
    with pytest.raises(ShapeError, match=r"clear images must be in \[0, 1\].*divide them by 255"):
        SSIMLoss()(255 * restored, 255 * clear)
    with pytest.raises(ShapeError, match="one shape"):
        SSIMLoss()(restored, clear[:1])


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    with pytest.raises(DependencyError, match=r'SSIMLoss needs .*pip install "\.\[objectives\]"'):
        build(LOSS_REGISTRY, {"type": "SSIMLoss"}, "train.ssim_opt")


@pytest.mark.parametrize("kind", [SSIMLoss, MSSSIMLoss])
def test_window_is_the_packages_and_no_part_of_checkpoints(kind):
    images = torch.rand(2, 3, 176, 176, generator=torch.Generator().manual_seed(0))
    loss = kind()
    expected = 1 - getattr(pytorch_msssim, loss.function)(images, images.flip(3), data_range=1.0)
    assert torch.equal(loss(images, images.flip(3)), expected)
    assert not loss.state_dict()
    assert loss.to("meta").window.device.type == "meta"
