"""PSNR and SSIM come from BasicSR; scikit-image is the independent reference."""

from __future__ import annotations

import numpy as np
import pytest
from basicsr.metrics import calculate_psnr, calculate_ssim
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity


@pytest.fixture(params=[5, 25])
def pair(request):
    clean = data.astronaut()[:128, 100:260]
    noise = np.random.default_rng(0).normal(0, request.param, clean.shape)
    return clean, np.clip(clean + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("border", [0, 4])
def test_psnr(pair, border):
    clean, noisy = pair
    inner = slice(border, -border or None)
    expected = peak_signal_noise_ratio(clean[inner, inner], noisy[inner, inner], data_range=255)
    assert calculate_psnr(noisy, clean, crop_border=border) == pytest.approx(expected, abs=1e-9)


def test_ssim(pair):
    clean, noisy = pair
    _, full = structural_similarity(
        clean,
        noisy,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    # BasicSR averages over the positions where the 11x11 window lies inside the image.
    assert calculate_ssim(noisy, clean, crop_border=0) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)
