"""``loss_weight: {relative: ...}`` in training steps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_accumulation import PATCHES, d2sm_model, images, model_of, parts_of
from torch import nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.objective_weight import ObjectiveWeight
from d2sm_plugin.options.reader import validate_options

MSE = {"type": "MSELoss", "reduction": "sum"}


def train(model, steps, accumulate=False):
    """Train, and return what is logged of each step."""
    logs = []
    for step in steps:
        batch = images(seed=step)
        assert model.train_step(parts_of(batch) if accumulate else [batch], step)
        logs.append(model.get_current_log())
    return logs


def expected_weights(steps: int, relative: float, measured: int) -> list[float]:
    """Weights of a sum of squared errors beside L1 at each step, of a training with autograd in float64."""
    torch.manual_seed(0)
    network = copy.deepcopy(model_of(pixel_opt={"type": "L1Loss"}).net_g).double()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    squares, weights = [], []
    for step in range(1, steps + 1):
        means = torch.tensor(squares[:measured], dtype=torch.float64).mean(0) if squares else None
        weights.append(0.0 if means is None else relative * math.sqrt(means[1] / means[0]))
        batch = {name: value.double() for name, value in images(seed=step).items()}
        restored = network(batch["lq"])
        pixel, other = (restored - batch["gt"]).abs().mean(), (restored - batch["gt"]).square().sum()
        pair = [torch.autograd.grad(loss, restored, retain_graph=True)[0] for loss in (other, pixel)]
        squares.append([gradient.square().sum().item() for gradient in pair])
        optimiser.zero_grad()
        (pixel + weights[-1] * other).backward()
        optimiser.step()
    return weights


def test_weights_are_those_of_an_independent_training():
    block = {**MSE, "loss_weight": {"relative": 0.5, "steps": 3}}
    logs = train(model_of(pixel_opt={"type": "L1Loss"}, second_opt=block), range(1, 7))
    weights = [log["weight/second"] for log in logs]
    assert weights == pytest.approx(expected_weights(6, 0.5, 3), rel=1e-4)
    assert weights[0] == 0
    assert weights[3] == weights[4] == weights[5]


def test_the_ratio_in_the_log_is_the_one_asked_for():
    model = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": {"relative": 0.25, "steps": 1}})
    model.opt["logger"]["grad_norm_freq"] = 1
    first, second = (train(model, [step])[0] for step in (1, 1))  # the weights have changed a little
    assert first["grad_ratio/second"] == 0
    assert second["grad_ratio/second"] == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("block", [MSE, {"type": "MSELoss"}], ids=["sum", "mean"])
def test_mini_batches_give_the_weights_of_one_batch(block):
    def weights(accumulate):
        model = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**block, "loss_weight": {"relative": 2.0}})
        return [log["weight/second"] for log in train(model, range(1, 6), accumulate)]

    assert weights(True) == pytest.approx(weights(False), rel=1e-4)


def with_d2sm(**arguments):
    model = d2sm_model(**arguments)
    model.objectives.terms["pixel"] = nn.L1Loss()
    model.objectives.takes["pixel"] = ("restored", "gt")
    model.objectives.weights["d2sm"] = ObjectiveWeight({"loss_weight": {"relative": 0.5, "steps": 2}}, "x")
    return model


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_queue_is_full_before_the_weight_is_frozen(reduction, accumulate):
    """A queue of 120 holds 96 windows after one step and 120 after two; steps 2 and 3 are the two that count."""
    model = with_d2sm(queue=120, patches={**PATCHES, "max_patches": 8}, reduction=reduction)
    logs = train(model, range(1, 7), accumulate)
    weights = [log["weight/d2sm"] for log in logs]
    assert weights[0] == 0
    assert len({*weights[1:4]}) == 3
    assert weights[3] == weights[4] == weights[5]


def test_the_share_of_d2sm_does_not_depend_on_sums_and_accumulation():
    collected = []
    for reduction in ("sum", "mean"):
        for accumulate in (False, True):
            model = with_d2sm(patches={**PATCHES, "max_patches": 8}, reduction=reduction)
            model.opt["logger"]["grad_norm_freq"] = 1
            collected.append(train(model, range(1, 5), accumulate)[-1]["grad_ratio/d2sm"])
    assert collected[:2] == pytest.approx(collected[2:], rel=1e-5)
    assert collected[1] == pytest.approx(
        collected[0], rel=0.3
    )  # statistics of mini-batches are not those of their batch


def test_schedules_multiply_the_weight():
    block = {**MSE, "loss_weight": {"relative": 0.5, "steps": 1}, "schedule": [[2, 0], [4, 1]]}
    logs = train(model_of(pixel_opt={"type": "L1Loss"}, second_opt=block), range(1, 7))
    weights = [log["weight/second"] for log in logs]
    assert weights[:3] == [0, 0, 0]  # measured at the third step, the first with a schedule above 0
    assert weights[3] == weights[4] == weights[5] > 0


def test_a_resumed_training_has_the_same_weights_bit_for_bit():
    def make():
        return model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": {"relative": 0.5, "steps": 4}})

    whole, first, second = (make() for _ in range(3))
    logs = train(whole, range(1, 7))
    train(first, range(1, 4))
    second.net_g.load_state_dict(first.net_g.state_dict())
    second.load_training_state({**copy.deepcopy(first.training_state()), "iter": 3})
    assert [log["weight/second"] for log in train(second, range(4, 7))] == [log["weight/second"] for log in logs[3:]]
    for left, right in zip(whole.net_g.parameters(), second.net_g.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_weight_may_become_relative_when_a_training_goes_on():
    plain = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": 0.1})
    relative = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": {"relative": 0.5}})
    train(relative, [1, 2])
    state = {**relative.training_state(), "iter": 2}
    plain.load_training_state(state)
    relative = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": {"relative": 0.5}})
    relative.load_training_state({**plain.training_state(), "iter": 2})
    assert train(relative, [3])[0]["weight/second"] == 0


def test_a_step_that_is_left_out_is_not_measured():
    class Broken(nn.Module):
        def forward(self, restored, gt):
            return restored.sum() * math.nan

    model = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": {"relative": 0.5}})
    kept = model.objectives.terms["second"]
    model.objectives.terms["second"] = Broken()
    assert not model.train_step([images()], 1)
    model.objectives.terms["second"] = kept
    assert int(model.objectives.weights["second"].relative.count) == 0
    assert [math.isfinite(log["l_second"]) for log in train(model, [2, 3])] == [True, True]


def test_one_line_says_that_nothing_can_be_measured():
    model = model_of(pixel_opt={"type": "L1Loss"}, second_opt={**MSE, "loss_weight": {"relative": 0.5}})
    said = [model.objectives.measure({"pixel": 0.1, "second": norm})[1] for norm in (0.0, math.inf, 0.0)]
    assert [len(lines) for lines in said] == [1, 0, 0]
    beginning = "train.second_opt.loss_weight: the gradient of second at the output has the norm 0, "
    assert said[0][0][1].startswith(beginning)


def options_with(**objectives):
    return {
        "name": "x",
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "FFDNet"},
        "train": {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}, **objectives},
    }


PIXEL = {"pixel_opt": {"type": "L1Loss"}}


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ({"a_opt": {**MSE, "loss_weight": {"relative": 0.5}}}, r"a_opt\.loss_weight\.relative: .* missing"),
        (PIXEL | {"a_opt": {**MSE, "loss_weight": {"relative": 0}}}, r"a_opt\.loss_weight\.relative: .* above 0"),
        (PIXEL | {"a_opt": {**MSE, "loss_weight": {"relative": "x"}}}, r"a_opt\.loss_weight\.relative: .* a number"),
        (PIXEL | {"a_opt": {**MSE, "loss_weight": {"relative": math.inf}}}, r"a_opt\.loss_weight\.relative: .* finite"),
        (PIXEL | {"a_opt": {**MSE, "loss_weight": {}}}, r"a_opt\.loss_weight\.relative: this key is missing"),
        (PIXEL | {"a_opt": {**MSE, "loss_weight": {"relative": 1, "step": 3}}}, r"a_opt\.loss_weight\.step: .*steps"),
        (PIXEL | {"a_opt": {**MSE, "loss_weight": {"relative": 1, "steps": 0}}}, r"a_opt\.loss_weight\.steps: "),
        ({"pixel_opt": {"type": "L1Loss", "loss_weight": {"relative": 1}}}, r"pixel_opt\.loss_weight.* itself"),
        (
            {"pixel_opt": {"type": "L1Loss", "loss_weight": 0}, "a_opt": {**MSE, "loss_weight": {"relative": 1}}},
            r"a_opt\.loss_weight\.relative: .* whose loss_weight is 0",
        ),
    ],
)
def test_option_files_are_checked_before_anything_runs(objectives, message):
    with pytest.raises(OptionError, match=message):
        validate_options(options_with(**objectives))


def test_classes_without_such_an_argument_have_a_relative_weight_too():
    block = {"type": "PerceptualLoss", "layer_weights": {"conv1_2": 1.0}, "loss_weight": {"relative": 0.5}}
    validate_options(options_with(**PIXEL, perceptual_opt=block))
