"""Short ways to describe the objective mean what the long ones mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from d2sm_reference import TinyExtractor

from d2sm_plugin.errors import OptionError
from d2sm_plugin.features import LightCNN9Features, TimmFeatures
from d2sm_plugin.losses import D2SMLoss, PatchSampler, QueueSampler, SpatialSampler
from d2sm_plugin.losses.shorthands import PRESETS, complete
from d2sm_plugin.options.reader import read_options

OPTIONS = Path(__file__).resolve().parents[2] / "options"


@pytest.fixture
def any_weights(monkeypatch):
    """Weights that need neither a package nor a download."""
    created = TimmFeatures.__init__

    def create(self, model="tf_efficientnet_lite0", weights="imagenet", **options):
        self.asked_for = weights
        created(self, model, None, **options)

    monkeypatch.setattr(TimmFeatures, "__init__", create)


def pair(batch=2, size=96):
    clear = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return clear.sqrt(), clear


def test_without_arguments_it_is_the_recommended_recipe(any_weights):
    torch.manual_seed(0)
    short = D2SMLoss()
    torch.manual_seed(0)
    block = {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "stride": 16}
    long = D2SMLoss(block, patches={"type": "SpatialSampler", "max_positions": 64})
    assert short(*pair()) == long(*pair()) > 0
    assert short.extractor.asked_for == "auto" and short.last["samples"] == 2 * 36 and short.queue is None


def test_presets_are_those_of_the_shipped_option_files():
    recipe = read_options(OPTIONS / "small_ffdnet_d2sm_recommended.yml")["train"]["d2sm_opt"]
    assert {**recipe["extractor"], "weights": "auto"} == PRESETS["positions"]["extractor"]
    assert recipe["patches"] == PRESETS["positions"]["patches"] and not recipe.get("queue")
    paper = read_options(OPTIONS / "train_ffdnet_d2sm.yml")["train"]["d2sm_opt"]
    assert {name: paper[name] for name in ("extractor", "patches", "queue")} == PRESETS["paper"]


def test_what_is_given_stands_before_the_preset():
    arguments = {"extractor": None, "queue": None, "patches": None}
    extractor = TinyExtractor()
    assert complete(None, **arguments) == {"queue": None, **PRESETS["positions"]}
    assert complete("paper", **arguments) == PRESETS["paper"]
    assert complete("paper", **{**arguments, "queue": 7}) == {**PRESETS["paper"], "queue": 7}
    assert complete(None, **{**arguments, "extractor": extractor}) == {**arguments, "extractor": extractor}
    assert complete("positions", **{**arguments, "extractor": extractor})["patches"] == PRESETS["positions"]["patches"]
    with pytest.raises(
        OptionError, match=r"D2SMLoss\.preset: no preset 'papers'; did you mean 'paper'\? known: .*paper"
    ):
        D2SMLoss(preset="papers")


def test_names_and_sizes(any_weights):
    loss = D2SMLoss("resnet18", queue=256, patches="spatial")
    assert loss.extractor.model == "resnet18" and loss.extractor.asked_for == "auto"
    assert isinstance(loss.queue, QueueSampler) and loss.queue.size == 256
    assert isinstance(loss.patches, SpatialSampler) and loss.patches.limit == SpatialSampler().limit
    for name in ("patch", "PatchSampler"):
        assert isinstance(D2SMLoss(TinyExtractor(), patches=name).patches, PatchSampler)
    assert isinstance(D2SMLoss("LightCNN9Features", queue=8).extractor, LightCNN9Features)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patches": "spatal"},
            r"D2SMLoss\.patches: no Sampler is called 'spatal'; did you mean 'spatial'\?",
        ),
        ({"patches": {"type": "SpatialSampeler"}}, r"did you mean 'SpatialSampler'\?"),
        ({"patches": {"type": "QueueSampler"}}, r"no Sampler is called 'QueueSampler'; "),
    ],
)
def test_a_wrong_sampler_gets_the_names_of_samplers(options, message):
    with pytest.raises(OptionError, match=message) as caught:
        D2SMLoss(TinyExtractor(), **options)
    assert str(caught.value).endswith("known: PatchSampler, SpatialSampler, patch, spatial")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extractor": "eficientnet_b0"}, r"D2SMLoss\.extractor: 'eficientnet_b0' is neither an extractor \(LightCNN9"),
        ({"extractor": "VGG19Feature"}, "did you mean one of VGG19Features"),
        ({"queue": 0}, "QueueSampler"),
        ({"queue": "256"}, r"D2SMLoss\.queue: no QueueSampler is called '256'; known: QueueSampler, queue"),
        ({"patches": 3}, r"D2SMLoss\.patches: expected a Sampler, its name or an option block, got 3"),
        ({"patches": {"max_positions": 3}}, r"D2SMLoss\.patches: the key 'type' is missing"),
    ],
)
def test_other_mistakes(options, message):
    with pytest.raises(OptionError, match=message):
        D2SMLoss(**{"extractor": TinyExtractor(), **options})


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{type: D2SMLoss}", None),
        ("{type: D2SMLoss, extractor: tf_efficientnet_lite0, queue: 256, patches: spatial}", None),
        ("{type: D2SMLoss, preset: paper, loss_weight: 1e-3}", None),
        ("{type: FeatureLoss, extractor: resnet18}", None),
        ("{type: D2SMLoss, patches: spatal}", "did you mean 'spatial'"),
        ("{type: D2SMLoss, preset: papers}", "did you mean 'paper'"),
        ("{type: D2SMLoss, extractor: resnet}", "nor a network of timm"),
    ],
)
def test_short_forms_in_option_files(tmp_path, block, message):
    file = tmp_path / "own.yml"
    file.write_text(f"extends: {OPTIONS / 'train_ffdnet_l1.yml'}\nname: own\ntrain:\n  d2sm_opt: {block}\n")
    if message is None:
        assert read_options(file)["train"]["d2sm_opt"]["type"] in block
    else:
        with pytest.raises(OptionError, match=rf"train\.d2sm_opt.*{message}"):
            read_options(file)
