from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from formula_values import formula_images, formula_state, probe
from scipy.io import savemat
from scipy.ndimage import minimum_filter

from d2sm_plugin.archs.mscnn_arch import ARCH_REGISTRY, MSCNN, estimate_airlight
from d2sm_plugin.archs.mscnn_weights import read_mscnn_weights
from d2sm_plugin.errors import CheckpointError, OptionError, ShapeError
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights

#: Mean, deviation and five values of restored images and of the maps for images(), from a float64 implementation of the
#: published steps in NumPy and SciPy: with formula weights, then with the published ones.
RECORDED = {
    ("formula", "released"): (
        [0.8598921148, 0.2148395059, 0.9005946045, 0.5620554102, 0.5863330145, 1.083201876, 0.6750312301],
        [0.5766304776, 0.0250486343, 0.5903834583, 0.6553145434, 0.6592107401, 0.6682103635, 0.6490029273],
        [0.4655071258, 0.009391078446, 0.4541596033, 0.4456860561, 0.4726137784, 0.4440159254, 0.4790621051],
    ),
    ("formula", "paper"): (
        [0.8657900205, 0.2185316963, 0.9086773461, 0.5627031876, 0.5868604107, 1.092669958, 0.6766319522],
        [0.563995988, 0.02260032376, 0.5859229251, 0.62318632, 0.6599638146, 0.630330864, 0.6599212839],
        [0.4655071258, 0.009391078446, 0.4541596033, 0.4456860561, 0.4726137784, 0.4440159254, 0.4790621051],
    ),
    ("published", "released"): (
        [1.495065665, 0.6538592123, 1.464491325, 0.6318756479, 0.7504400768, 3.034336396, 1.197018203],
        [0.1831652957, 0.05347279025, 0.2698224531, 0.1202036421, 0.1393456974, 0.06509342786, 0.1236313918],
        [0.3533464801, 0.03831128269, 0.3809585924, 0.2708603685, 0.3886690968, 0.2647603618, 0.3852915639],
    ),
    ("published", "paper"): (
        [1.51809455, 0.6689284671, 1.482682104, 0.6333060145, 0.7541432421, 3.066795916, 1.206598864],
        [0.1785261365, 0.05212637671, 0.2658113839, 0.1191429049, 0.1371259877, 0.06454955945, 0.1218050881],
        [0.3533464801, 0.03831128269, 0.3809585924, 0.2708603685, 0.3886690968, 0.2647603618, 0.3852915639],
    ),
}
#: Restored images of the published weights in the variant "paper" with gamma 1.3.
RECORDED_GAMMA = [2.085801953, 1.090745251, 1.941439949, 0.6962832057, 0.8998895481, 4.926806525, 1.706745658]


def images() -> torch.Tensor:
    return 0.5 + 0.5 * formula_images(2, 3, 32, 40)


@pytest.fixture(scope="module")
def published(shared):
    path = shared / "weights" / "dehazing" / "MSCNNDehazing_FL.mat"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    return path


def formula_network(variant: str) -> MSCNN:
    network = MSCNN(variant).double()
    network.load_state_dict(formula_state({name: tuple(t.shape) for name, t in network.state_dict().items()}))
    return network


def check(network: MSCNN, kind: str) -> None:
    with torch.inference_mode():
        outputs = network(images())
    restored, transmission, coarse = RECORDED[kind, network.variant]
    assert probe(outputs["restored"]) == pytest.approx(restored, abs=1e-8)
    for name, expected in (("transmission", transmission), ("coarse_transmission", coarse)):
        assert probe(outputs[name][:, 0]) == pytest.approx(expected, abs=1e-9)
        assert torch.equal(outputs[name][:, 0], outputs[name][:, 2])


def test_parameter_counts():
    network = build(ARCH_REGISTRY, {"type": "MSCNN"}, "network_g")
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.coarse, network.fine, network)]
    assert counts == [6_321, 2_114, 6_321 + 2_114]
    assert network.variant == "released"


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_outputs_equal_those_of_the_reference(variant):
    check(formula_network(variant), "formula")


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize("file", ["FL", "CL"])
def test_published_weights(published, variant, file):
    network = MSCNN(variant)
    assert load_weights(network, published.with_name(f"MSCNNDehazing_{file}.mat")) == []
    check(network.double(), "published")


def test_gamma(published):
    network = MSCNN("paper", gamma=1.3)
    load_weights(network, published)
    with torch.inference_mode():
        assert probe(network.double()(images())["restored"]) == pytest.approx(RECORDED_GAMMA, abs=1e-8)


def test_airlight_is_the_brightest_local_minimum():
    hazy = formula_images(2, 3, 20, 31)
    expected = [[minimum_filter(plane, 15, mode="reflect").max() for plane in image] for image in hazy.numpy()]
    np.testing.assert_allclose(estimate_airlight(hazy)[..., 0, 0], np.maximum(expected, 1 / 255))
    assert estimate_airlight(torch.zeros(1, 3, 4, 4)).eq(1 / 255).all()


@pytest.mark.parametrize("size", [(2, 2), (7, 9), (33, 18)])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_any_size_from_two_pixels_and_any_image(size, variant):
    network = MSCNN(variant)
    for hazy in (torch.rand(1, 3, *size), torch.zeros(1, 3, *size), torch.ones(1, 3, *size)):
        outputs = network(hazy)
        assert all(output.shape == hazy.shape and output.isfinite().all() for output in outputs.values())


def test_what_learns():
    torch.manual_seed(0)
    for variant, silent in (("released", "coarse."), ("paper", None)):
        network = MSCNN(variant)
        network(images().float())["restored"].square().mean().backward()
        quiet = {name.split(".")[0] + "." for name, p in network.named_parameters() if p.grad is None}
        assert quiet == ({silent} if silent else set())


def test_bad_input_is_refused():
    with pytest.raises(OptionError, match="'relesed'; did you mean 'released'"):
        MSCNN("relesed")
    with pytest.raises(OptionError, match="gamma: expected a positive number"):
        MSCNN(gamma=0)
    with pytest.raises(ShapeError, match="at least 2x2"):
        MSCNN()(torch.rand(1, 3, 1, 9))
    with pytest.raises(ShapeError, match="MSCNN: expected images"):
        MSCNN()(torch.rand(1, 1, 9, 9))


# ------------------------------------------------------------------------------------------------ the published format


def write_mat(path, layers):
    cells = np.empty((1, len(layers)), dtype=object)
    for index, layer in enumerate(layers):
        cells[0, index] = layer
    savemat(path, {"net": {"layers": cells}}, do_compression=True)


def matconvnet(network: MSCNN, part: str) -> list[dict]:
    """The layers as MatConvNet has them: height, width, in, out."""
    layers = []
    for conv in getattr(network, part).convs:
        layers += [
            {
                "type": "conv",
                "filters": conv.weight.detach().numpy().transpose(2, 3, 1, 0),
                "biases": conv.bias.detach().numpy()[None],
            },
            {"type": "relu"},
        ]
    return layers


@pytest.fixture
def files(tmp_path):
    network = MSCNN()
    for ending, part in (("CL", "coarse"), ("FL", "fine")):
        write_mat(tmp_path / f"MSCNNDehazing_{ending}.mat", matconvnet(network, part))
    return tmp_path, network


def test_reader_gives_back_what_was_written(files):
    folder, network = files
    state = read_mscnn_weights(folder / "MSCNNDehazing_CL.mat")
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_files_that_are_missing_renamed_or_damaged(files):
    folder, network = files
    coarse, fine = folder / "MSCNNDehazing_CL.mat", folder / "MSCNNDehazing_FL.mat"
    shutil.copy(fine, folder / "fine.mat")
    with pytest.raises(CheckpointError, match=r"fine\.mat: expected MSCNNDehazing_CL\.mat or MSCNNDehazing_FL\.mat"):
        load_weights(MSCNN(), folder / "fine.mat")
    content = coarse.read_bytes()
    for damage in (b"", content[:100], content[: len(content) // 2], content[:-20], b"no MATLAB" * 50):
        coarse.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"MSCNNDehazing_CL\.mat: cannot be read|not a checkpoint") as caught:
            load_weights(MSCNN(), fine)
        assert "\n" not in str(caught.value)
    draw = np.random.default_rng(0)
    for _ in range(100):
        bad = bytearray(content)
        for position in draw.integers(100, len(bad), 3):
            bad[position] = draw.integers(256)
        coarse.write_bytes(bytes(bad))
        try:
            load_weights(MSCNN(), fine)
        except CheckpointError as error:
            assert "\n" not in str(error)
    coarse.unlink()
    with pytest.raises(CheckpointError, match=r"MSCNNDehazing_CL\.mat: No such file or directory; both"):
        load_weights(network, fine)


def test_other_contents_are_refused(files):
    folder, _ = files
    coarse = folder / "MSCNNDehazing_CL.mat"
    savemat(coarse, {"other": np.ones(3)}, do_compression=True)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(MSCNN(), coarse)
    savemat(coarse, {"net": np.zeros(9 << 20)}, do_compression=True)  # a thousand times the size of the file
    with pytest.raises(CheckpointError, match=r"cannot be read \(it unpacks to more than 64 MiB\)"):
        load_weights(MSCNN(), coarse)
    write_mat(coarse, [{"filters": "text", "biases": np.ones(1)}])
    with pytest.raises(CheckpointError, match="a layer's filters are"):
        load_weights(MSCNN(), coarse)
    write_mat(coarse, matconvnet(MSCNN(), "fine"))
    with pytest.raises(CheckpointError, match="not a checkpoint of this MSCNN"):
        load_weights(MSCNN(), coarse)
