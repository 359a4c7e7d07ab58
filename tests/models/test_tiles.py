from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2sm_plugin.archs.cbdnet_arch import CBDNet
from d2sm_plugin.archs.ffdnet_arch import FFDNet
from d2sm_plugin.archs.sadnet_arch import SADNet
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.models.restore import restore_batch
from d2sm_plugin.models.tiles import tile_spans, tiled_forward

#: Width does not change how far a network sees, so narrow ones serve.
NETWORKS = {
    "FFDNet": lambda: FFDNet(num_feat=4),
    "FFDNet grey": lambda: FFDNet(1, 1, num_feat=4, num_layers=15),
    "CBDNet": lambda: CBDNet(num_feat=4),
    "CBDNet port": lambda: CBDNet(num_feat=4, layout="port"),
    "SADNet": lambda: SADNet(num_feat=8, num_offset_feat=4),
}


def make(name):
    torch.manual_seed(0)
    return NETWORKS[name]().double().eval()


def batch_for(network, height, width, batch=1):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, network.num_in_ch, height, width, generator=generator, dtype=torch.float64)
    return {"lq": images, "sigma": torch.linspace(0.1, 0.2, batch, dtype=torch.float64).view(-1, 1, 1, 1)}


def offsets_of(network, images):
    """The largest deformable offset, in pixels of its scale, that a SADNet uses on some images."""
    largest = []
    hooks = [
        decoder.deform.head.register_forward_hook(lambda _, __, out: largest.append(out[:, :144].abs().max().item()))
        for decoder in network.decoders
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return max(largest)


def open_up(network):
    """Make all weights positive averages, so that every ReLU is open and no two paths cancel.

    A SADNet's heads of offsets get small weights of both signs, for offsets between 0.2 and 1 pixel either way.
    """
    for module in network.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            module.weight.abs_()
            module.weight.div_(module.weight.sum() / max(module.weight.shape[:2]))
    for decoder in getattr(network, "decoders", ()):
        decoder.deform.head.weight.normal_(0, 5e-6)
        decoder.deform.head.bias[:144] = 0.3 * (1 - 2 * (torch.arange(144) % 7 < 3).double())


@torch.no_grad()
def reach(network, size=512, width=16):
    """Distance from an aligned block of output rows to the farthest input row with a gradient."""
    open_up(network)
    batch = batch_for(network, size, width)
    image = batch["lq"].requires_grad_()
    first = size // 2
    stop = first + network.size_multiple
    with torch.enable_grad():
        outputs = network(*(batch[entry] for entry in getattr(network, "inputs", ("lq",))))
        restored = outputs["restored"] if isinstance(outputs, dict) else outputs
        (gradient,) = torch.autograd.grad(restored[..., first:stop, :].sum(), image)
    rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
    return max(first - rows.min().item(), rows.max().item() + 1 - stop)


@pytest.mark.parametrize("name", NETWORKS)
def test_declared_radius_is_the_measured_reach(name):
    network = make(name)
    assert reach(network) == network.receptive_radius
    if name == "SADNet":
        assert 0.2 < offsets_of(network, batch_for(network, 64, 64)["lq"]) < 1


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("opened", [False, True])
def test_tiles_equal_the_whole_image(name, opened):
    network = make(name)
    if opened:  # the far ends of the receptive field count as much as ever they can
        with torch.no_grad():
            open_up(network)
    radius, multiple = network.receptive_radius, network.size_multiple
    tile = 2 * radius + 5 * multiple
    # Odd sizes, more than two tiles in one direction; the last ones are cut by the image.
    batch = batch_for(network, tile + 37, 3 * multiple + 1, batch=2)
    whole = restore_batch(network, batch)
    tiled = restore_batch(network, batch, tile=tile)
    assert tiled.shape == whole.shape == batch["lq"].shape
    assert (tiled - whole).abs().max() < 1e-12
    if opened:
        assert (restore_batch(network, batch, tile=tile, tile_overlap=radius // 2) - whole).abs().max() > 1e-12


@pytest.mark.parametrize("name", ["FFDNet", "CBDNet", "CBDNet port"])
def test_tiles_in_both_directions_in_float32(name):
    network = make(name).float()
    batch = {entry: value.float() for entry, value in batch_for(network, 171, 203).items()}
    tiled = restore_batch(network, batch, tile=144)
    assert (tiled - restore_batch(network, batch)).abs().max() < 1e-5


def test_large_deformable_offsets_leave_the_tile():
    """Exact for a fresh SADNet, whose offsets are below one pixel; not where offsets point beyond the overlap."""
    network = make("SADNet")
    batch = batch_for(network, 400, 24)
    assert offsets_of(network, batch["lq"]) < 1
    with torch.no_grad():
        network.decoders[-1].deform.head.bias[:144:2] = 30  # 30 rows at stride 8 are 240 pixels
    assert (restore_batch(network, batch, tile=304) - restore_batch(network, batch)).abs().max() > 1e-6


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("overlap", [0, 3, 16])
@pytest.mark.parametrize("tile", [33, 40, 64])
def test_spans_join_and_keep_their_distance(tile, overlap, multiple):
    if tile <= 2 * overlap:
        pytest.skip("refused")
    longest = -(-tile // multiple) * multiple
    for size in range(1, 300):
        kept = 0
        for span in tile_spans(size, tile, overlap, multiple):
            assert span.keep_start == kept < span.keep_stop
            assert span.stop - span.start <= longest
            assert span.start % multiple == 0
            assert span.start == 0 or span.keep_start - span.start >= overlap
            assert span.stop == size or span.stop - span.keep_stop >= overlap
            kept = span.keep_stop
        assert kept == size


def test_scale_is_found_from_the_first_tile():
    def enlarge(images):
        return F.interpolate(images, scale_factor=3, mode="bilinear")

    images = torch.rand(2, 3, 41, 50)
    torch.testing.assert_close(tiled_forward(enlarge, [images], 20, 4, multiple=2), enlarge(images))


def test_every_call_sees_at_most_one_tile():
    seen = []

    def forward(images, sigma, mask):
        assert images.shape[-2:] == mask.shape[-2:]
        assert torch.equal(images[:, :1], mask)
        assert sigma.shape == (2, 1, 1, 1)
        seen.append(images.shape[-2:])
        return images

    images = torch.rand(2, 3, 90, 70)
    restored = tiled_forward(forward, [images, torch.zeros(2, 1, 1, 1), images[:, :1]], 32, 8, multiple=8)
    assert torch.equal(restored, images)
    assert max(max(size) for size in seen) == 32
    assert tiled_forward(lambda image: image, [images], None, 8) is images


@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (32, 9), (0, 0), (32, -1)])
def test_tiles_of_which_nothing_is_kept(tile, overlap):
    with pytest.raises(OptionError, match="tile"):
        tiled_forward(lambda image: image, [torch.rand(1, 3, 90, 70)], tile, overlap, multiple=16)


def test_inputs_and_outputs_of_another_size():
    images = torch.rand(1, 3, 90, 70)
    with pytest.raises(ShapeError, match=r"input 1 of the network has shape \(1, 3, 45, 35\)"):
        tiled_forward(lambda image, _: image, [images, images[..., ::2, ::2]], 32, 0)
    with pytest.raises(ShapeError, match="whole-number scale"):
        tiled_forward(lambda image: image[..., 1:, :], [images], 32, 0)


def test_mode_of_every_part_is_put_back():
    network = make("FFDNet").train()
    network.model[0].eval()
    restore_batch(network, batch_for(network, 8, 8))
    assert network.training
    assert network.model[1].training
    assert not network.model[0].training


def test_half_precision_by_autocast_gives_float32():
    network = make("FFDNet").float()
    batch = {entry: value.float() for entry, value in batch_for(network, 16, 16).items()}
    restored = restore_batch(network, batch, amp="bf16")
    assert restored.dtype == torch.float32
    torch.testing.assert_close(restored, restore_batch(network, batch), atol=0.02, rtol=0.02)
    with pytest.raises(OptionError, match="amp: 'bf61' is unknown; did you mean 'bf16'"):
        restore_batch(network, batch, amp="bf61")
