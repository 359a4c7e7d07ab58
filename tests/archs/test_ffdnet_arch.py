from __future__ import annotations

import numpy as np
import pytest
import torch
from formula_values import formula_images, formula_state, probe
from published_shapes import ffdnet_d2sm, ffdnet_kair
from skimage.io import imread
from skimage.metrics import peak_signal_noise_ratio

from d2sm_plugin.archs.ffdnet_arch import ARCH_REGISTRY, FFDNet
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

GREY = {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 64, "num_layers": 15}
SIGMAS = torch.tensor([25 / 255, 50 / 255], dtype=torch.float64).view(2, 1, 1, 1)

#: Outputs of KAIR's FFDNet (mean, deviation, five values) for the formula weights and images, two noise levels.
RECORDED = {
    (3, 16, 24): [
        0.04487942504, 0.08803037391, 0.05920721347, 0.1431195965, 0.1181287676, 0.1405641328, 0.1181369285,
    ],
    (3, 15, 21): [
        0.04326385788, 0.08955905602, 0.05707006438, 0.1802629455, -0.07089990424, 0.1097152968, -0.07000305587,
    ],
    (1, 15, 21): [
        -0.01263249073, 0.03061482021, -0.002974339342, 0.01750962496, 0.0304606292, -0.06432615314, 0.03052305721,
    ],
}  # fmt: skip


@pytest.fixture
def small():
    torch.manual_seed(0)
    return FFDNet(num_feat=8, num_layers=3).double().eval()


@pytest.mark.parametrize(("options", "count"), [({}, 852_108), (GREY, 485_316)])
def test_parameter_count(options, count):
    network = build(ARCH_REGISTRY, {"type": "FFDNet", **options}, "network_g")
    assert sum(parameter.numel() for parameter in network.parameters()) == count


def test_orthogonal_weights_are_orthogonal_times_a_fifth():
    network = FFDNet(num_feat=8, num_layers=3, init="orthogonal").double()
    for layer in network.model[::2]:
        rows = layer.weight.flatten(1)
        gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        torch.testing.assert_close(gram, 0.04 * torch.eye(len(gram), dtype=torch.float64), atol=1e-7, rtol=0)
        assert not layer.bias.any()
    with pytest.raises(OptionError, match=r"FFDNet\.init: 'orthogonl' is unknown; did you mean 'orthogonal'"):
        FFDNet(init="orthogonl")


@pytest.mark.parametrize("size", RECORDED)
def test_outputs_equal_those_of_the_published_module(size):
    channels, height, width = size
    network = FFDNet(**({} if channels == 3 else GREY)).double()
    shapes = ffdnet_kair() if channels == 3 else ffdnet_kair(1, 64, 15)
    network.load_state_dict(network.convert_state_dict(formula_state(shapes)))
    with torch.inference_mode():
        restored = network(formula_images(2, channels, height, width), SIGMAS)
    assert restored.shape == (2, channels, height, width)
    assert probe(restored) == pytest.approx(RECORDED[size], abs=1e-9)


def test_loads_the_d2sm_release_with_extractor_and_queues(tmp_path):
    state = formula_state(ffdnet_d2sm())
    extra = {"dest.slice.0.weight": torch.zeros(4, 3, 3, 3), "dest.queue_x": torch.zeros(16, 8)}
    wrapped = {f"module.{name}": value for name, value in (state | extra).items()}
    torch.save({"epoch": 3, "model": "ffdnet", "state_dict": wrapped}, tmp_path / "d2sm.pth")
    network = FFDNet().double()
    load_weights(network, tmp_path / "d2sm.pth")
    expected = network.state_dict()
    assert torch.equal(expected["model.0.weight"], state["m_head.0.weight"])
    assert torch.equal(expected["model.8.bias"], state["m_body.3.0.bias"])
    assert torch.equal(expected["model.22.weight"], state["m_tail.weight"])


def test_loads_its_own_and_nested_kair_files(tmp_path, small):
    torch.save({"params": small.state_dict()}, tmp_path / "own.pth")
    other = FFDNet(num_feat=8, num_layers=3).double()
    load_weights(other, tmp_path / "own.pth")
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), small.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="of another shape"):
        load_weights(FFDNet(num_feat=16, num_layers=3), tmp_path / "own.pth")


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (7, 2), (37, 51)])
def test_any_size(small, size):
    assert small(torch.rand(2, 3, *size).double(), SIGMAS).shape == (2, 3, *size)


def test_every_image_has_its_own_noise_level(small):
    images = torch.rand(2, 3, 9, 10).double()
    together = small(images, SIGMAS)
    for index in range(2):
        alone = small(images[index : index + 1], SIGMAS[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone)
    assert not torch.allclose(together[1:], small(images[1:], SIGMAS[:1]))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2,), (2, 1, 9, 10), (2, 3, 1, 1)])
def test_sigma_of_another_shape(small, shape):
    with pytest.raises(ShapeError, match=r"sigma of shape \(2, 1, 1, 1\)"):
        small(torch.rand(2, 3, 9, 10).double(), torch.zeros(shape))


def test_grey_images_in_a_colour_network(small):
    with pytest.raises(ShapeError, match=r"FFDNet: expected images of shape \(B, 3, H, W\), got \(2, 1, 9, 10\)"):
        small(torch.rand(2, 1, 9, 10), SIGMAS)


def test_too_few_layers():
    with pytest.raises(OptionError, match="num_layers is 1"):
        FFDNet(num_layers=1)


def restore_noisy(network: FFDNet, path, noise_level: float) -> float:
    """PSNR of one image, over all pixels and channels, both images as 8-bit numbers."""
    clear = imread(path)
    noise = np.random.RandomState(0).normal(0, noise_level / 255, clear.shape)
    noisy = torch.from_numpy(clear / 255 + noise).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        restored = network(noisy, torch.full((1, 1, 1, 1), noise_level / 255))
    restored = restored[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    return peak_signal_noise_ratio(clear, restored)


def test_published_weights_on_cbsd68(shared):
    """The published colour PSNR at noise level 25 is 31.2 dB: mean over the 68 images.

    Noise: not clipped, drawn anew from NumPy's seed 0 for every image in the order (H, W, C). Restored images are
    clamped and rounded to 8 bits; PSNR over all pixels and channels of one image, no border cut.
    """
    network = FFDNet().eval()
    load_weights(network, shared / "weights" / "ffdnet_color.pth")
    paths = sorted((shared / "data" / "cbsd68").glob("*.png"))
    assert len(paths) == 68
    psnr = np.mean([restore_noisy(network, path, 25) for path in paths])
    assert psnr == pytest.approx(31.22, abs=0.005)
