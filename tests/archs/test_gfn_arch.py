from __future__ import annotations

import random
import struct

import numpy as np
import pytest
import torch
from formula_values import formula_images, formula_state, probe
from published_haze_shapes import gfn

from d2sm_plugin.archs.caffemodel import read_caffemodel
from d2sm_plugin.archs.gfn_arch import ARCH_REGISTRY, GFN, derived_images
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

#: Mean, deviation and five values for formula_images(2, 3, 24, 40), from the published layer definition run layer by
#: layer in float64: with formula weights, and with the published ones.
RECORDED = {
    "restored": [0.05972425339, 0.06596896889, 0.0296770975, 0.0016322291, 0.0261012425, 0.0265597199, 0.06139621091],
    "half": [0.07431642934, 0.03442631179, 0.02664706825, 0.02408668145, 0.04556458992, 0.02641525021, 0.06908703492],
    "quarter": [0.2900311769, 0.08923504664, 0.1551190119, 0.4080143878, 0.224108443, 0.3941553015, 0.2372417002],
}  # fmt: skip
RECORDED_PUBLISHED = {
    "restored": [0.5081596054, 0.3757174628, 0.5605243961, -0.007142275736, 0.60845079, 0.5786164881, 0.9222083535],
    "half": [0.7391653044, 0.2547409164, 0.404749724, 0.592811633, 0.5202251938, 0.3648109592, 0.8736082123],
    "quarter": [0.8705845979, 0.08883697385, 0.9810400314, 0.8371802337, 0.8320087899, 0.8546840929, 0.8814799012],
}  # fmt: skip


@pytest.fixture(scope="module")
def caffemodel(shared):
    path = shared / "weights" / "dehazing" / "gfn_iter_240000.caffemodel"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return path


def test_parameter_count():
    network = build(ARCH_REGISTRY, {"type": "GFN"}, "network_g")
    assert sum(parameter.numel() for parameter in network.parameters()) == 517_295
    assert len(network.state_dict()) == len(gfn()) == 2 * 56


@torch.inference_mode()
def test_outputs_equal_those_of_the_published_definition():
    network = GFN().double()
    network.load_state_dict(network.convert_state_dict(formula_state(gfn())))
    outputs = network(formula_images(2, 3, 24, 40))
    assert set(outputs) == set(RECORDED)
    for name, expected in RECORDED.items():
        assert probe(outputs[name]) == pytest.approx(expected, abs=1e-9), name


@torch.inference_mode()
def test_published_weights(caffemodel):
    network = GFN()
    assert load_weights(network, caffemodel) == []
    outputs = network.double()(formula_images(2, 3, 24, 40))
    for name, expected in RECORDED_PUBLISHED.items():
        assert probe(outputs[name]) == pytest.approx(expected, abs=1e-9), name
    assert {name: tuple(tensor.shape) for name, tensor in read_caffemodel(caffemodel).items()} == gfn()


def test_derived_images_by_the_formulas():
    hazy = formula_images(2, 3, 5, 7)
    for image, derived in zip(hazy.numpy(), derived_images(hazy).numpy(), strict=True):
        levels = np.floor(255 * image + 0.5)
        means = levels.mean((1, 2))
        balanced = np.minimum(levels * (means.mean() / (means + 0.001))[:, None, None], 255) / 255
        mean = image.mean()
        expected = np.concatenate([image, balanced, 2 * (0.5 + mean) * (image - mean), image**2.5])
        np.testing.assert_allclose(derived, expected, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (13, 30), (16, 24)])
def test_any_height_and_width(size):
    network = GFN(num_feat=2)
    outputs = network(torch.rand(1, 3, *size))
    whole = [-(-side // 8) * 8 for side in size]
    assert outputs["restored"].shape == (1, 3, *size)
    assert outputs["half"].shape == (1, 3, *(side // 2 for side in whole))
    assert outputs["quarter"].shape == (1, 3, *(side // 4 for side in whole))


def test_every_parameter_learns_from_the_finest_scale():
    torch.manual_seed(0)
    network = GFN(num_feat=4)
    network(torch.rand(2, 3, 16, 16))["restored"].square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bad_input_is_refused():
    with pytest.raises(OptionError, match="num_feat must be at least 1"):
        GFN(0)
    with pytest.raises(ShapeError, match="GFN: expected images"):
        GFN(1)(torch.rand(1, 1, 8, 8))


# ------------------------------------------------------------------------------------------------ the published format


def varint(value: int) -> bytes:
    head, rest = value & 0x7F, value >> 7
    return bytes([head | 0x80]) + varint(rest) if rest else bytes([head])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(tensor: torch.Tensor) -> bytes:
    values = tensor.flatten().tolist()
    dims = b"".join(map(varint, tensor.shape))
    return field(7, field(1, dims)) + field(5, struct.pack(f"<{len(values)}f", *values))


def snapshot(state: dict[str, torch.Tensor]) -> bytes:
    """A Caffe network as its files have it, with fields of every kind that a reader passes over."""
    layers = b""
    for name in dict.fromkeys(key.rsplit(".", 1)[0] for key in state):
        content = field(1, name.encode()) + field(2, b"Convolution") + varint(10 << 3) + varint(300)
        content += varint(11 << 3 | 5) + bytes(4) + varint(12 << 3 | 1) + bytes(8)
        layers += field(100, content + field(7, blob(state[f"{name}.weight"])) + field(7, blob(state[f"{name}.bias"])))
    return field(1, b"net") + layers + field(100, field(1, b"relu"))


def small_state() -> dict[str, torch.Tensor]:
    return {
        "conv1.weight": torch.rand(3, 2, 1, 2), "conv1.bias": torch.rand(3),
        "up.weight": torch.rand(2, 130, 1, 1), "up.bias": torch.rand(130),
    }  # fmt: skip


def test_reader_gives_back_what_was_written(tmp_path):
    path = tmp_path / "net.caffemodel"
    state = small_state()
    path.write_bytes(snapshot(state))
    got = read_caffemodel(path)
    assert list(got) == list(state)
    assert all(torch.equal(got[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no layers with weights"),
        (b"\x80\x02ccollections\nOrderedDict\n", "no Caffe snapshot, or damaged"),
        (b"\xff" * 12, "a number without an end"),
        (b"\x0b", "a field of unknown kind 3"),
        (field(100, field(1, b"a") + field(7, blob(torch.ones(2)))[:-1]), "behind its end"),
        (field(100, field(1, b"\xff") + field(7, blob(torch.ones(2)))), "can't decode"),
        (field(100, field(7, field(7, field(1, varint(3))) + field(5, bytes(8)))), r"8 bytes for a shape of \[3\]"),
        (field(100, field(1, b"a") + field(7, blob(torch.ones(2))) * 3), "3 blobs, expected weight and bias"),
    ],
)  # fmt: skip
def test_damaged_files_say_so_in_one_line(tmp_path, content, message):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_caffemodel(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_random_damage_never_gives_another_error(tmp_path):
    good, draw = snapshot(small_state()), random.Random(0)
    path = tmp_path / "net.caffemodel"
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            bad[draw.randrange(len(bad))] = draw.randrange(256)
        path.write_bytes(bytes(bad[: draw.randint(1, len(bad))]))
        try:
            read_caffemodel(path)
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_missing_truncated_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(GFN(1), tmp_path / "none.caffemodel")
    path = tmp_path / "other.caffemodel"
    path.write_bytes(snapshot(small_state()))
    with pytest.raises(CheckpointError, match="not a checkpoint of this GFN"):
        load_weights(GFN(1), path)
