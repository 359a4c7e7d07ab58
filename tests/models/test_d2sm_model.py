from __future__ import annotations

import copy
import math

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError, TrainingError
from d2sm_plugin.losses.relative_weight import gradient_norms
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.models.objectives import Objectives, default_takes
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.registry import register


@register(ARCH_REGISTRY)
class TwoOutputs(nn.Module):
    """A network with an extra output."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, lq):
        return {"restored": lq * self.scale, "noise_map": lq[:, :1] * self.scale}


@register(LOSS_REGISTRY)
class MeanOf(nn.Module):
    """The weighted mean of what it takes."""

    takes = ("noise_map",)

    def __init__(self, loss_weight: float = 1.0, bad_at: int = -1, bad_for: int = 1) -> None:
        super().__init__()
        self.loss_weight, self.bad, self.calls = loss_weight, range(bad_at, bad_at + bad_for), 0

    def forward(self, tensor):
        self.calls += 1
        return self.loss_weight * tensor.mean() * (math.nan if self.calls in self.bad else 1.0)


def model_of(**train) -> D2SMModel:
    raw = {
        "name": "x",
        "num_gpu": 0,
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "TwoOutputs"},
        "train": {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}, "pixel_opt": {"type": "L1Loss"}, **train},
    }
    return D2SMModel(validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1})


def batch():
    return {"lq": torch.full((2, 3, 4, 4), 0.5), "gt": torch.full((2, 3, 4, 4), 0.2), "key": ["a", "b"]}


def test_objectives_take_what_they_declare_and_what_the_option_says():
    objectives = Objectives(
        {"a_opt": {"type": "MeanOf"}, "b_opt": {"type": "MeanOf", "takes": ["gt"], "loss_weight": 3.0}}
    )
    losses = objectives({"gt": torch.ones(2)}, {"noise_map": torch.full((2,), 5.0)})
    assert {name: value.item() for name, value in losses.items()} == {"a": 5.0, "b": 3.0}


def test_hosts_perceptual_pair_is_summed():
    class Pair(nn.Module):
        def forward(self, restored, gt):
            return restored.mean(), None

    objectives = Objectives({"pixel_opt": {"type": "L1Loss"}})
    objectives.terms["pair"], objectives.takes["pair"] = Pair(), ("restored", "gt")
    assert objectives({"gt": torch.zeros(3)}, {"restored": torch.ones(3)})["pair"].item() == 1.0


def test_a_broken_block_is_named():
    with pytest.raises(OptionError, match=r"train\.a_opt\.los: MeanOf takes no such argument"):
        Objectives({"a_opt": {"type": "MeanOf", "los": 1}})


def test_gradient_norms_match_the_analytic_ones():
    x = torch.ones(4, requires_grad=True)
    out = {"restored": x * 2}
    norms = gradient_norms(
        {"mean": out["restored"].mean(), "sum": 3 * out["restored"].sum(), "none": torch.ones(())}, out.values()
    )
    assert {k: round(v.item(), 6) for k, v in norms.items()} == {"mean": 0.5, "sum": 6.0, "none": 0.0}


def test_a_step_logs_every_objective_and_the_ratio_of_gradients():
    model = model_of(noise_opt={"type": "MeanOf", "loss_weight": 2.0})
    assert model.train_step([batch()], 1)
    log = model.get_current_log()
    assert log["l_pixel"] == pytest.approx(0.3) and log["l_noise"] == pytest.approx(1.0)
    assert log["grad_ratio/pixel"] == 1.0
    assert log["grad_ratio/noise"] == pytest.approx((2 / math.sqrt(32)) / (1 / math.sqrt(96)))
    assert "grad_ratio/noise" not in model.get_current_log()


def test_ratios_are_to_the_pixel_objective_wherever_it_stands():
    model = model_of(a_opt={"type": "MeanOf", "loss_weight": 2.0})
    model.objectives.terms = nn.ModuleDict(reversed(model.objectives.terms.items()))
    assert next(iter(model.objectives.terms)) == "a"
    assert model.train_step([batch()], 1)
    log = model.get_current_log()
    assert log["grad_ratio/pixel"] == 1.0
    assert log["grad_ratio/a"] == pytest.approx((2 / math.sqrt(32)) / (1 / math.sqrt(96)))


def test_accumulated_batches_equal_one_large_batch():
    large, small = model_of(), model_of()
    images = torch.rand(4, 3, 4, 4)
    large.train_step([{"lq": images, "gt": images * 0.5}], 2)
    halves = [{"lq": part, "gt": part * 0.5} for part in images.chunk(2)]
    small.train_step(halves, 2)
    assert torch.allclose(large.net_g.scale, small.net_g.scale)


def test_a_loss_that_is_not_finite_skips_the_step_and_is_named(caplog):
    model = model_of(noise_opt={"type": "MeanOf", "bad_at": 2})
    model.logger.propagate = True
    model.train_step([batch()], 1)
    before = model.net_g.scale.clone()
    with caplog.at_level("WARNING", logger="basicsr"):
        assert not model.train_step([batch()], 2)
    assert torch.equal(model.net_g.scale, before)
    assert "loss not finite in noise on a, b" in caplog.text
    assert model.train_step([batch()], 3)
    assert model.get_current_log()["nonfinite_steps"] == 1.0


def test_too_many_in_a_row_stop_the_run():
    model = model_of(noise_opt={"type": "MeanOf", "bad_at": 1, "bad_for": 9}, max_nonfinite_steps=3)
    assert [model.train_step([batch()], n) for n in (1, 2)] == [False, False]
    with pytest.raises(
        TrainingError, match=r"3 steps in a row .*loss not finite in noise on a, b; lower the learning rate"
    ):
        model.train_step([batch()], 3)


def test_moving_average_follows_weights_and_copies_buffers():
    model = model_of(ema_decay=0.75)
    start = model.net_g.scale.item()
    model.train_step([batch()], 1)
    assert model.net_g_ema.scale.item() == pytest.approx(0.75 * start + 0.25 * model.net_g.scale.item())
    assert model.best_network is model.net_g_ema


@pytest.mark.slow
def test_a_compiled_network_trains_the_same_weights():
    plain, compiled = model_of(), model_of(compile=True)
    for step in (1, 2, 3):
        assert plain.train_step([batch()], step) and compiled.train_step([batch()], step)
    assert compiled.net_g.state_dict().keys() == plain.net_g.state_dict().keys()
    assert compiled.net_g.scale.item() == pytest.approx(plain.net_g.scale.item(), rel=1e-6)


def test_channels_last_reaches_the_extractor():
    extractor = {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None}
    model = model_of(channels_last=True, d2sm_opt={"type": "D2SMLoss", "extractor": extractor})
    weight = model.objectives.terms["d2sm"].extractor.network.conv_stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize(
    "patches",
    [{"type": "PatchSampler", "size": 64, "stride": 32}, {"type": "SpatialSampler", "max_positions": 4}],
    ids=lambda block: block["type"],
)
def test_a_compiled_extractor_gives_the_same_loss_and_gradient(patches):
    torch.manual_seed(0)
    torch.compiler.reset()
    block = {
        "type": "D2SMLoss",
        "extractor": {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None, "stride": 16},
        "patches": patches,
    }
    plain, compiled = model_of(d2sm_opt=block), model_of(d2sm_opt=block, compile=True)
    extractors = [model.objectives.terms["d2sm"].extractor for model in (plain, compiled)]
    extractors[1].load_state_dict(extractors[0].state_dict())
    gt = torch.rand(2, 3, 96, 96)
    images = {"lq": (gt + 0.1 * torch.randn_like(gt)).clamp(0, 1), "gt": gt}
    for model in (plain, compiled):
        torch._dynamo.utils.counters.clear()
        assert model.train_step([images], 1)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # the network's and the extractor's
    assert compiled.get_current_log()["l_d2sm"] == pytest.approx(plain.get_current_log()["l_d2sm"], rel=1e-3)
    assert compiled.net_g.scale.item() == pytest.approx(plain.net_g.scale.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (None, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"type": "MultiStepLR", "milestones": [5], "gamma": 0.5}, [0.25, 0.5, 0.75, 1, 1, 0.5, 0.5, 0.5]),
        ({"type": "StepLR", "step_size": 2, "gamma": 0.5}, [0.25, 0.5, 0.75, 0.5, 0.25, 0.25, 0.125, 0.125]),
    ],
)
def test_a_warm_up_ends_where_the_schedule_is(scheduler, expected):
    model = model_of(scheduler=scheduler, warmup_iter=4)
    rates = []
    for step in range(1, 9):
        if step == 3:  # continued in the middle of it
            state = copy.deepcopy(model.training_state())
            model = model_of(scheduler=scheduler, warmup_iter=4)
            model.load_training_state(state)
        model.update_learning_rate(step, 4)
        rates += [rate / 0.1 for rate in model.get_current_learning_rate()]
        model.train_step([batch()], step)
    assert rates == pytest.approx(expected)


def test_objectives_without_takes_get_what_their_forward_names():
    class Blind(nn.Module):
        def forward(self, image):
            return image.mean()

    class Starred(nn.Module):
        def forward(self, *images):
            return images[0].mean()

    weighted, plain = (LOSS_REGISTRY.get(name)() for name in ("WeightedTVLoss", "L1Loss"))
    assert default_takes(weighted) == default_takes(Blind()) == ("restored",)
    assert default_takes(plain) == default_takes(Starred()) == ("restored", "gt")
    assert default_takes(MeanOf()) == ("noise_map",)
