"""Weights stay finite whatever becomes of losses and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import ForeignError, TrainingError
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.models.nonfinite import nonfinite_names
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.registry import register


@register(ARCH_REGISTRY)
class Flat(nn.Module):
    """A network whose last layer begins with zeros, so that its first output is flat; it has running means, and a mask
    that holds -inf by design."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 3, 3, padding=1),
        )
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        nn.init.zeros_(self.last.weight)

    def forward(self, lq):
        return self.last(self.norm(self.first(lq)).relu()) + self.mask[0]


@register(LOSS_REGISTRY)
class GradientLoss(nn.Module):
    """Distance of edges; the derivative of the square root at 0 makes the gradient NaN where the output is flat."""

    def edges(self, images):
        across, down = images.diff(dim=-1)[..., 1:, :], images.diff(dim=-2)[..., 1:]
        return (across.square() + down.square()).sqrt()

    def forward(self, restored, gt):
        return (self.edges(restored) - self.edges(gt)).abs().mean()


@register(LOSS_REGISTRY)
class Scaled(nn.Module):
    """The mean of an image, times the next factor of a list."""

    def __init__(self, factors) -> None:
        super().__init__()
        self.factors = list(factors)

    def forward(self, restored, gt):
        return restored.mean() * self.factors.pop(0)


@register(LOSS_REGISTRY)
class Returns(nn.Module):
    """Whatever it is told to return or raise."""

    def __init__(self, value) -> None:
        super().__init__()
        self.value = value

    def forward(self, restored, gt):
        if self.value == "raise":
            raise KeyError("no\nsuch key")
        return {"number": 1.0, "map": restored, "none": None, "detached": restored.detach().mean()}[self.value]


def model_of(kind="D2SMModel", **train) -> D2SMModel:
    raw = {
        "name": "x",
        "num_gpu": 0,
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "Flat"},
        "train": {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}, "ema_decay": 0.5, **train},
    }
    raw["train"].setdefault("pixel_opt", {"type": "L1Loss"})
    torch.manual_seed(0)
    model = D2SMModel(validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1})
    model.logger.propagate = True
    return model


def batch(value=0.5, seed=0):
    lq = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * value
    return {"lq": lq, "gt": torch.full((2, 3, 8, 8), 0.2), "key": ["a", "b"]}


def state(model):
    return {
        f"{key}.{name}": tensor.clone()
        for key, net in model.networks()["net_g"].items()
        for name, tensor in net.state_dict().items()
    }


def assert_same(left, right):
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_named(caplog):
    model = model_of(edge_opt={"type": "GradientLoss"}, grad_clip=0.1)
    before = state(model)
    with caplog.at_level("WARNING", logger="basicsr"):
        assert not model.train_step([batch()], 1)
    assert_same(before, state(model))
    assert "gradient of edge not finite in first.weight" in caplog.text and "on a, b" in caplog.text
    assert model.damage() is None  # the mask was built with -inf
    with torch.no_grad():
        model.net_g.last.weight.normal_()
    assert model.train_step([batch()], 2)
    assert model.guard.in_a_row == 0 and model.guard.total == 1
    assert model.damage() is None


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e38])
def test_losses_and_gradients_beyond_the_range_of_floats(factor):
    """1e38 times a mean is finite, and so is every entry of its gradient, but their norm is not."""
    model = model_of(odd_opt={"type": "Scaled", "factors": [0.5, factor, 0.5]})
    assert model.train_step([batch()], 1)
    before = state(model)
    assert not model.train_step([batch()], 2)
    assert_same(before, state(model))
    assert model.train_step([batch()], 3)
    assert not torch.equal(before["params.last.weight"], model.net_g.last.weight)


def test_running_means_do_not_keep_what_a_bad_picture_did_to_them():
    model = model_of()
    before = state(model)
    bad = batch()
    bad["lq"][0, 0, 0, 0] = math.nan
    assert not model.train_step([batch(), bad], 1)
    assert_same(before, state(model))
    assert model.train_step([batch()], 2)
    assert not torch.equal(before["params.norm.running_mean"], model.net_g.norm.running_mean)


def test_one_bad_mini_batch_of_several_leaves_the_step_out_and_is_named(caplog):
    model = model_of(odd_opt={"type": "Scaled", "factors": [0.5, math.nan, 0.5]})
    batches = [{**batch(seed=n), "key": [f"{n}a", f"{n}b"]} for n in range(3)]
    with caplog.at_level("WARNING", logger="basicsr"):
        assert not model.train_step(batches, 1)
    assert "loss not finite in odd on 1a, 1b" in caplog.text


def test_weights_spoilt_by_the_optimiser_end_the_training_at_once():
    model = model_of(optim_g={"type": "SGD", "lr": 1e38}, odd_opt={"type": "Scaled", "factors": [1e3] * 9})
    assert model.train_step([batch()], 1)
    assert "inf or NaN in the weights (net_g params" in model.damage()
    with pytest.raises(TrainingError, match=r"inf or NaN in the weights .*lower the learning rate"):
        model.train_step([batch()], 2)


def test_spoilt_moments_of_the_optimiser_are_damage():
    model = model_of(optim_g={"type": "Adam", "lr": 1e-3})
    assert model.train_step([batch()], 1)
    assert model.damage() is None
    next(iter(model.optimizers[0].state.values()))["exp_avg"].fill_(math.inf)
    assert "inf or NaN in the state of Adam (exp_avg)" in model.damage()


def test_after_too_many_the_weights_are_those_of_the_last_sound_step():
    model = model_of(odd_opt={"type": "Scaled", "factors": [0.5] + [math.nan] * 9}, max_nonfinite_steps=3)
    assert model.train_step([batch()], 1)
    before = state(model)
    assert not model.train_step([batch()], 2) and not model.train_step([batch()], 3)
    with pytest.raises(TrainingError, match=r"3 steps in a row were left out \(train\.max_nonfinite_steps\)"):
        model.train_step([batch()], 4)
    assert_same(before, state(model))
    assert model.damage() is None
    assert model.training_state()["nonfinite"] == [0, 3]  # the count in a row begins anew


def test_float16_overflow_lowers_the_scale_and_is_no_failure(caplog):
    model = model_of(amp="fp16", pixel_opt={"type": "L1Loss", "loss_weight": 10.0}, max_nonfinite_steps=1)
    before, scale = state(model), model.scaler.get_scale()
    with caplog.at_level("INFO", logger="basicsr"):
        made = [model.train_step([batch()], step) for step in range(1, 30)]
    assert not made[0] and made[-1]
    assert model.scaler.get_scale() < scale
    assert "gradient beyond float16" in caplog.text
    assert model.guard.total == 0 and model.damage() is None
    assert not torch.equal(before["params.last.weight"], model.net_g.last.weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("raise", r"train\.odd_opt: Returns raised KeyError: 'no\\nsuch key'"),
        ("number", r"train\.odd_opt: Returns returned float; an objective returns a scalar tensor"),
        ("map", r"train\.odd_opt: Returns returned a tensor \(2, 3, 8, 8\)"),
        ("none", r"train\.odd_opt: Returns returned NoneType"),
    ],
)
def test_what_an_objective_does_wrong_is_one_line(value, message):
    with pytest.raises(ForeignError, match=message) as caught:
        model_of(odd_opt={"type": "Returns", "value": value}).train_step([batch()], 1)
    assert "\n" not in str(caught.value)


def test_an_objective_without_effect_is_pointed_out_at_the_first_step(caplog):
    model = model_of(odd_opt={"type": "Returns", "value": "detached"})
    with caplog.at_level("WARNING", logger="basicsr"):
        assert model.train_step([batch()], 1)
    assert "train.odd_opt does nothing" in caplog.text and "pixel_opt" not in caplog.text


def test_a_network_that_fails_is_named_with_what_it_was_given(monkeypatch):
    model = model_of()
    bad = {**batch(), "lq": torch.rand(2, 4, 8, 8)}
    with pytest.raises(
        ForeignError, match=r"network_g: Flat on images \(2, 4, 8, 8\) of a, b raised RuntimeError: Given"
    ):
        model.train_step([bad], 1)


def test_extra_state_of_a_network_is_no_tensor():
    class Counting(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

    network = Counting(2, 2)
    assert nonfinite_names(network.state_dict()) == []
    network.weight.data[0, 0] = math.nan
    assert nonfinite_names(network.state_dict()) == ["weight"]
