from __future__ import annotations

import sys
import warnings

import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from d2sm_plugin.errors import CheckpointError, DependencyError, OptionError, ShapeError
from d2sm_plugin.losses.lpips_loss import LPIPSLoss
from d2sm_plugin.registry import build

lpips = pytest.importorskip("lpips")

# Layers of torchvision's ``features`` behind which the publication taps.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
NETS = [*("alex", "squeeze"), pytest.param("vgg", marks=pytest.mark.slow)]


def torchvisions(net: str) -> nn.Module:
    from torchvision import models

    torch.manual_seed(5)
    return {"alex": models.alexnet, "vgg": models.vgg16, "squeeze": models.squeezenet1_1}[net](weights=None).eval()


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """Path of a seeded random trunk, by name of the network."""
    folder = tmp_path_factory.mktemp("trunks")

    def path_of(net: str):
        path = folder / f"{net}.pth"
        if not path.exists():
            state = torchvisions(net).state_dict()
            torch.save({name: tensor for name, tensor in state.items() if name.startswith("features")}, path)
        return path

    return path_of


def images(size: int = 64, batch: int = 2):
    generator = torch.Generator().manual_seed(size)
    clear = torch.rand(batch, 3, size, size, generator=generator)
    return (clear + 0.1 * torch.randn(clear.shape, generator=generator)).clamp(0, 1), clear


@pytest.mark.parametrize("net", NETS)
def test_equals_the_formula(trunk, net):
    """The publication's formula in float64 on torchvision's own network."""
    restored, clear = images()
    features = torchvisions(net).features.double()
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(1, 3, 1, 1)
    weights = torch.load(f"{lpips.__path__[0]}/weights/v0.1/{net}.pth", map_location="cpu", weights_only=True)

    def taps(batch):
        maps, collected = (2 * batch.double() - 1 - shift) / scale, []
        for index, layer in enumerate(features):
            maps = layer(maps)
            if index in TAPS[net]:
                collected.append(maps.clone())  # some layers work in place
        return collected

    expected = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for number, (a, b) in enumerate(zip(taps(restored), taps(clear), strict=True)):
            a, b = (f / ((f**2).sum(1, keepdim=True).sqrt() + 1e-10) for f in (a, b))
            weight = weights[f"lin{number}.model.1.weight"].double()
            assert (weight >= 0).all()
            expected += (weight * (a - b) ** 2).sum(1).mean((1, 2))
    value = LPIPSLoss(net, trunk(net))(restored, clear)
    torch.testing.assert_close(value, expected.mean().float(), rtol=1e-5, atol=0)
    assert value > 0


@pytest.mark.parametrize("net", NETS)
def test_equals_the_package(trunk, net):
    restored, clear = images(66)
    loss = LPIPSLoss(net, trunk(net), loss_weight=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        of_package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    whole = torchvisions(net).state_dict()
    of_package.net.load_state_dict(
        {name: whole[f"features.{name.split('.', 1)[1]}"] for name in of_package.net.state_dict()}
    )
    torch.testing.assert_close(loss(restored, clear), 0.5 * of_package(2 * restored - 1, 2 * clear - 1).mean())
    torch.testing.assert_close(loss(restored, clear), 0.5 * of_package(restored, clear, normalize=True).mean())
    actual, expected = (image.clone().requires_grad_() for image in (restored, restored))
    loss(actual, clear).backward()
    (0.5 * of_package(expected, clear, normalize=True).mean()).backward()
    torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-3, atol=1e-9)


def test_the_calibrated_weights_are_those_of_the_publication():
    loss = LPIPSLoss("alex", None)
    weights = [layer.model[-1].weight for layer in loss.network.lins]
    assert sum(weight.numel() for weight in weights) == 1152
    assert all((weight >= 0).all() for weight in weights)


def test_zero_for_equal_images_and_no_gradient_to_weights(trunk):
    restored, clear = images()
    loss = LPIPSLoss("squeeze", trunk("squeeze")).train()
    assert loss(clear, clear) == 0
    restored.requires_grad_()
    clear.requires_grad_()
    loss(restored, clear).backward()
    assert restored.grad.isfinite().all() and restored.grad.abs().sum() > 0 and clear.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.network.parameters())
    assert not any(part.training for part in loss.network.modules())
    assert not list(loss.parameters()) and not list(loss.buffers()) and not loss.state_dict()
    assert next(loss.double().network.parameters()).dtype == torch.float64


def test_gradient(trunk):
    restored, clear = (batch.double() for batch in images(40, 1))
    loss = LPIPSLoss("squeeze", trunk("squeeze")).double()
    direction = torch.randn(restored.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = restored.clone().requires_grad_()
    loss(leaf, clear).backward()
    with torch.no_grad():
        slope = (loss(restored + 1e-6 * direction, clear) - loss(restored - 1e-6 * direction, clear)) / 2e-6
    torch.testing.assert_close(slope, (leaf.grad * direction).sum(), rtol=1e-5, atol=0)


def test_positions_without_features_have_a_finite_gradient(trunk):
    """All ReLUs closed: the package's formula gives NaN there."""
    restored, clear = images(40, 1)
    loss = LPIPSLoss("squeeze", trunk("squeeze"))
    with torch.no_grad():
        for layer in (loss.network.net.slice7[0].expand1x1, loss.network.net.slice7[0].expand3x3):
            layer.bias.fill_(-1e3)
    assert (loss._features(clear)[-1] == 0).all()
    restored.requires_grad_()
    loss(restored, clear).backward()
    assert restored.grad.isfinite().all() and restored.grad.abs().sum() > 0


def test_building_draws_nothing_from_the_global_generator(trunk):
    before = torch.get_rng_state()
    LPIPSLoss("squeeze", trunk("squeeze"))
    assert torch.equal(before, torch.get_rng_state())


def test_the_network_alone_runs_in_autocast(trunk):
    restored, clear = images()
    loss = LPIPSLoss("squeeze", trunk("squeeze"))
    with torch.autocast("cpu", torch.bfloat16):
        half = loss(restored, clear)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss(restored, clear), rtol=0.1, atol=0)


def test_mistakes(trunk, tmp_path, monkeypatch):
    restored, clear = images()
    with pytest.raises(OptionError, match=r"LPIPSLoss\.net: 'alexnet' is unknown; did you mean 'alex'"):
        LPIPSLoss("alexnet")
    loss = LPIPSLoss("squeeze", trunk("squeeze"))
    with pytest.raises(OptionError, match="at least 17x17, got 16x64; set a larger"):
        loss(restored[:, :, :16], clear[:, :, :16])
    with pytest.raises(ShapeError, match="they look like"):
        loss(2 * restored - 1, 2 * clear - 1)
    with pytest.raises(CheckpointError, match=r"alex\.pth: .*features.*'squeeze'.*squeezenet1_1-b8a52dc0\.pth"):
        LPIPSLoss("squeeze", trunk("alex"))
    with pytest.raises(CheckpointError, match="no such file"):
        LPIPSLoss("squeeze", tmp_path / "none.pth")
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(DependencyError, match=r'LPIPSLoss needs .*pip install "\.\[objectives\]"'):
        build(LOSS_REGISTRY, {"type": "LPIPSLoss"}, "train.lpips_opt")


@pytest.mark.parametrize("failure", [OSError("unreachable"), RuntimeError("invalid hash value")])
def test_download_that_fails(monkeypatch, failure):
    def refuse(*_args, **_kwargs):
        raise failure

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(CheckpointError, match=r"LPIPSLoss\.trunk: .*cannot be downloaded .*squeezenet1_1.*as 'trunk'"):
        LPIPSLoss("squeeze")
