from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.errors import CheckpointError, DataError, OptionError, ShapeError
from d2sm_plugin.inference.inference import main
from d2sm_plugin.inference.picture_files import read_picture
from d2sm_plugin.inference.restorer import Restorer
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.weight_files import Description

BLOCK = {"type": "FFDNet", "num_feat": 8, "num_layers": 3}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FFDNet(num_feat=8, num_layers=3).eval()


@pytest.mark.filterwarnings("error")
def test_arrays_that_may_not_be_written_to_are_taken_without_a_warning(network):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    expected = Restorer(network, sigma=25)(image.copy())
    image.flags.writeable = False
    assert np.array_equal(Restorer(network, sigma=25)(image), expected)


@pytest.fixture
def file(network, tmp_path):
    path = tmp_path / "ours.safetensors"
    Restorer(network, about=Description(BLOCK)).save(path)
    return path


def reference(network, image, sigma=25):
    batch = {"lq": image[None], "sigma": torch.full((1, 1, 1, 1), sigma / 255)}
    return restore_batch(network, batch)[0]


def test_three_lines(network, file):
    image = torch.rand(3, 21, 34)
    restorer = Restorer.from_checkpoint(file, sigma=25, device="cpu")
    assert torch.equal(restorer(image), reference(network, image).clamp(0, 1))
    assert torch.equal(restorer(image, sigma=50), reference(network, image, 50).clamp(0, 1))
    assert torch.equal(restorer(image[None])[0], restorer(image))
    assert restorer.network.training is False


def test_every_kind_of_image_gives_the_same(network):
    restorer = Restorer(network, sigma=25)
    pixels = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    restored = reference(network, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    expected = restored.clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.array_equal(restorer(pixels), (expected * 255).round().astype(np.uint8))
    assert np.allclose(restorer(pixels / 255), expected, atol=1e-6)
    assert restorer(pixels / 255).dtype == np.float32
    assert np.abs(restorer(pixels.astype(np.uint16) * 257) / 65535 - expected).max() < 1e-4
    image = restorer(Image.fromarray(pixels))
    assert np.array_equal(np.array(image), restorer(pixels))


def test_grey_goes_through_a_colour_network_and_back(network):
    restorer = Restorer(network, sigma=25)
    grey = np.random.default_rng(0).integers(0, 256, (21, 34), dtype=np.uint8)
    restored = reference(network, torch.from_numpy(grey).float().div(255).expand(3, -1, -1))
    expected = restored.mean(0).clamp(0, 1).numpy()
    assert np.abs(restorer(grey) / 255 - expected).max() < 0.5 / 255 + 1e-6
    assert np.allclose(restorer(grey / 255), expected, atol=1e-6)
    assert restorer(grey[..., None]).shape == (21, 34, 1)
    assert restorer(Image.fromarray(grey)).mode == "L"
    colour = Restorer(FFDNet(1, 1, num_feat=8, num_layers=3), sigma=25)
    assert colour(np.zeros((21, 34, 3))).shape == (21, 34, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_pil_images_keep_their_kind(network, mode):
    image = Restorer(network, sigma=25)(Image.new(mode, (12, 10)))
    assert image.mode == {"1": "L", "P": "RGB"}.get(mode, mode)
    assert image.size == (12, 10)


def test_a_turned_pil_image_is_upright(network):
    image = Image.new("RGB", (12, 10))
    image.getexif()[0x0112] = 6
    assert Restorer(network, sigma=25)(image).size == (10, 12)


def test_tiles_and_half_precision(network):
    image = torch.rand(3, 64, 96)
    whole = Restorer(network, sigma=25)(image)
    assert torch.allclose(Restorer(network, sigma=25, tile=32)(image), whole, atol=1e-5)
    half = Restorer(network, sigma=25, amp="bf16")(image)
    assert 0 < (half - whole).abs().max() < 0.05


def test_what_cannot_be_restored_is_one_line(network, file, tmp_path):
    restorer = Restorer(network, sigma=25)
    for image, message in (
        (torch.rand(20, 20), r"expected a tensor \(C, H, W\).*got \(20, 20\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "floats in .* of uint8"),
        (np.zeros((8, 8, 4)), r"expected an array .*got \(8, 8, 4\)"),
        (np.zeros((8, 8), np.int64), "expected an array of uint8, uint16 or floats, got int64"),
        (Image.new("F", (8, 8)), "a PIL image of mode F"),
        ("photo.jpg", "expected a tensor, an array or a PIL image, got str"),
    ):
        with pytest.raises(ShapeError, match=message):
            restorer(image)
    for chosen, sigma, message in (
        (Restorer(network), None, "FFDNet wants to be told the noise level: give sigma"),
        (Restorer(torch.nn.Conv2d(3, 3, 1)), 25, "Conv2d is not told any sigma"),
        (restorer, "estimate", "of tensors the noise level is not estimated"),
    ):
        with pytest.raises(OptionError, match=message):
            chosen(torch.rand(3, 8, 8), sigma)
    with pytest.raises(OptionError, match=r"nobody would know which network it is.*'FFDNet'"):
        restorer.save(tmp_path / "x.pth")
    with pytest.raises(OptionError, match=r"written as \.safetensors or \.pth"):
        Restorer(network, about=Description(BLOCK)).save(tmp_path / "x.bin")
    broken = FFDNet(num_feat=8, num_layers=3)
    torch.nn.init.constant_(broken.body[0].weight if hasattr(broken, "body") else next(broken.parameters()), torch.inf)
    with pytest.raises(DataError, match="values that are no numbers"):
        Restorer(broken, sigma=25)(torch.rand(3, 8, 8))


def test_files_that_do_not_say_their_network(network, tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({"params": network.state_dict()}, path)
    with pytest.raises(OptionError, match=r"theirs\.pth: the file does not say which network.*network='FFDNet'"):
        Restorer.from_checkpoint(path)
    assert Restorer.from_checkpoint(path, BLOCK, sigma=25, device="cpu")(torch.rand(3, 8, 8)).shape == (3, 8, 8)
    with pytest.raises(CheckpointError, match="not a checkpoint of this FFDNet"):
        Restorer.from_checkpoint(path, "FFDNet")
    Restorer(network, about=Description({"type": "FFDNnet"})).save(tmp_path / "typo.pth")
    with pytest.raises(OptionError, match=r"no arch is registered as 'FFDNnet'.*FFDNet"):
        Restorer.from_checkpoint(tmp_path / "typo.pth")


def test_the_command_needs_no_network(network, file, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noisy.png")
    out = ["-o", str(tmp_path / "out"), "--sigma", "25", "--device", "cpu"]
    assert main([str(tmp_path / "noisy.png"), "--weights", str(file), *out]) == 0
    assert np.array_equal(read_picture(tmp_path / "out/noisy.png").pixels, Restorer(network, sigma=25)(pixels))
    with pytest.raises(OptionError, match="give the pictures once"):
        main([str(tmp_path / "noisy.png"), "-i", str(tmp_path), "--weights", str(file), *out])
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(OptionError, match=r"does not say which network.*name it with --network"):
        main([str(tmp_path / "noisy.png"), "--weights", str(tmp_path / "theirs.pth"), *out, "--existing", "overwrite"])
