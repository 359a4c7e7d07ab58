"""D2SM on several maps of one network against the sum of single objectives."""

from __future__ import annotations

import pytest
import torch

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features import TimmFeatures, VGG19Features
from d2sm_plugin.losses import D2SMLoss
from d2sm_plugin.losses.multi_layer_d2sm_loss import MultiLayerD2SMLoss
from d2sm_plugin.models.objectives import Objectives
from d2sm_plugin.options.reader import validate_options

WEIGHTS = [1.0, 0.5, 2.0]
NETWORKS = {
    "timm": (lambda **stride: TimmFeatures("test_resnet", weights=None, **stride), [4, 8, 16]),
    "vgg": (lambda **layer: VGG19Features(weights=None, **(layer or {"layer": "conv4_1"})), ["conv2_1", 4, "conv4_1"]),
}


@pytest.fixture(params=NETWORKS)
def networks(request):
    """The network of the whole, and that of each map, with the same weights."""
    make, layers = NETWORKS[request.param]

    def build(**arguments):
        torch.manual_seed(0)
        return make(**arguments)

    if request.param == "timm":
        return build(), [build(stride=stride) for stride in layers], layers
    return build(), [build(layer={4: "pool2"}.get(layer, layer)) for layer in layers], layers


def images(seed):
    generator = torch.Generator().manual_seed(seed)
    clear = torch.rand(2, 3, 64, 64, generator=generator)
    return (clear + 0.1 * torch.randn(clear.shape, generator=generator)).clamp(0, 1).requires_grad_(), clear


@pytest.mark.parametrize("queue", [None, {"type": "QueueSampler", "size": 40}], ids=["batch", "queue"])
@pytest.mark.parametrize("kernel", ["cosine", "centred_cosine"])
def test_it_is_the_sum_of_single_objectives(networks, queue, kernel):
    """Over four steps, so that every queue is full, and with positions drawn at random."""
    whole, parts, layers = networks
    options = {"queue": queue, "patches": {"type": "SpatialSampler", "max_positions": 12}, "kernel": kernel}
    loss = MultiLayerD2SMLoss(whole, layers, WEIGHTS, loss_weight=0.1, **options)
    singles = [D2SMLoss(part, **options) for part in parts]
    for seed in range(4):
        restored, clear = images(seed)
        value = loss(restored, clear)
        expected = 0.1 * sum(w * single(restored, clear) for w, single in zip(WEIGHTS, singles, strict=True))
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-9)
        gradients = [torch.autograd.grad(value_of, restored)[0] for value_of in (value, expected)]
        assert (gradients[0] - gradients[1]).norm() <= 1e-4 * gradients[1].norm()
    if queue is not None:
        assert [len(term.queue) for term in loss.terms] == [40, 40, 40]


def test_the_state_goes_on_and_holds_no_network():
    def make():
        torch.manual_seed(0)
        return MultiLayerD2SMLoss(TimmFeatures("test_resnet", weights=None), [8, 16], queue=200)

    saved, loaded = make(), make()
    for seed in range(2):
        saved(*images(seed))
    assert not any("network" in name or "extractor" in name for name in saved.state_dict())
    loaded.load_state_dict(saved.state_dict())
    assert saved(*images(2)).item() == loaded(*images(2)).item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, r"layers: expected different layers"),
        ({"layers": [8, 8]}, r"layers: expected different layers"),
        ({"layers": [8, 16], "layer_weights": [1]}, r"layer_weights: expected 2 numbers"),
        ({"layers": [8], "layer_weights": [0]}, r"layer_weights: expected 1 numbers from 0, not all 0"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, message):
    with pytest.raises(OptionError, match=rf"MultiLayerD2SMLoss\.{message}"):
        MultiLayerD2SMLoss(TimmFeatures("test_resnet", weights=None), **arguments)


@pytest.mark.parametrize(
    ("extractor", "layers", "message"),
    [
        (lambda: TimmFeatures("test_resnet", weights=None), [3], "no stage of stride 3"),
        (lambda: TimmFeatures("test_resnet", weights=None), ["layer9"], "no stage 'layer9'"),
        (lambda: TimmFeatures("test_resnet", weights=None, stride=8), [8, 16], "8 leaves out the stages behind it"),
        (
            lambda: VGG19Features("conv2_1", weights=None),
            ["conv3_1"],
            "up to layer 'conv2_1' there is no map 'conv3_1'",
        ),
        (lambda: VGG19Features("conv2_1", weights=None), [3], "there is no map '3'"),
    ],
)
def test_layers_that_there_are_not(extractor, layers, message):
    with pytest.raises(OptionError, match=message):
        MultiLayerD2SMLoss(extractor(), layers)(*images(0))


def test_option_files_know_it():
    block = {
        "type": "MultiLayerD2SMLoss",
        "extractor": {"type": "TimmFeatures", "model": "test_resnet", "weights": None},
        "layers": [8, 16],
        "layer_weights": [1, 0.5],
        "queue": 200,
        "loss_weight": {"relative": 0.5},
    }
    raw = {
        "name": "x",
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "FFDNet"},
        "train": {
            "total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"}, "d2sm_opt": block,
        },
    }  # fmt: skip
    train = validate_options(raw)["train"]
    objectives = Objectives(train)
    restored, clear = images(0)
    assert set(objectives({"gt": clear}, {"restored": restored})) == {"pixel", "d2sm"}
    assert objectives.terms["d2sm"].filling
    raw["train"]["d2sm_opt"] = {**block, "queue": {"type": "QueueSampler", "size": 2}}
    with pytest.raises(OptionError, match=r"train\.d2sm_opt\.queue.*at least 3"):
        validate_options(raw)
