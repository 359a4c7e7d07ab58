from __future__ import annotations

import numpy as np
import pytest
import torch
from test_d2sm_model import batch, model_of

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.objectives import Objectives
from d2sm_plugin.models.weight_schedule import WeightSchedule
from d2sm_plugin.options.reader import validate_options


def test_factors_are_those_of_linear_interpolation():
    points = [[10, 0.5], [20, 2], [40, 0]]
    schedule = WeightSchedule(points, "x")
    steps = np.arange(1, 60)
    expected = np.interp(steps, *zip(*points, strict=True))
    assert np.allclose([schedule.at(int(step)) for step in steps], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "expected pairs"),
        (0.5, "expected pairs"),
        ([[1]], "expected a pair"),
        ([[1, -1]], "expected a pair"),
        ([["a", 1]], "expected a pair"),
        ([[1, float("nan")]], "expected a pair"),
        ([[5, 1], [5, 2]], "steps must rise"),
        ([[1, 0], [2, 0]], "every factor is 0"),
    ],
)
def test_what_is_no_schedule_is_named_with_its_key(points, message):
    with pytest.raises(OptionError, match=rf"train\.d2sm_opt\.schedule: {message}"):
        WeightSchedule(points, "train.d2sm_opt.schedule")


def test_an_objective_is_weighed_by_the_step_and_left_out_at_nothing():
    block = {"type": "L1Loss", "schedule": [[2, 0], [4, 1]]}
    objectives = Objectives({"pixel_opt": {"type": "L1Loss"}, "second_opt": block})
    collected = {}
    for objectives.step in (1, 2, 3, 4, 9):
        collected[objectives.step] = objectives({"gt": torch.zeros(3)}, {"restored": torch.full((3,), 2.0)}).get(
            "second"
        )
    assert collected[1] is None
    assert collected[2] is None
    assert [collected[step].item() for step in (3, 4, 9)] == [1.0, 2.0, 2.0]


def test_steps_of_a_training_go_by_it():
    model = model_of(second_opt={"type": "L1Loss", "schedule": [[1, 0], [3, 2]]})
    logs = []
    for step in (1, 2, 3):
        model.train_step([batch()], step)
        logs.append(model.get_current_log())
    assert "l_second" not in logs[0]
    assert logs[1]["l_second"] == pytest.approx(logs[1]["l_pixel"])
    assert logs[2]["l_second"] == pytest.approx(2 * logs[2]["l_pixel"])


def test_no_objective_left_is_an_error():
    objectives = Objectives({"pixel_opt": {"type": "L1Loss", "schedule": [[1, 0], [3, 2]]}})
    with pytest.raises(OptionError, match=r"at step 1 the schedule of every objective \(pixel\) gives 0"):
        objectives({"gt": torch.zeros(3)}, {"restored": torch.zeros(3)})


def test_option_files_are_checked_before_anything_runs():
    train = {"total_iter": 9, "optim_g": {"type": "SGD", "lr": 0.1}, "pixel_opt": {"type": "L1Loss", "schedule": [1]}}
    raw = {
        "name": "x",
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "FFDNet"},
    }
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.schedule: expected a pair"):
        validate_options({**raw, "train": train})
    train["pixel_opt"] = {"type": "L1Loss"}
    train["gan_opt"] = {"type": "GANLoss", "gan_type": "vanilla", "schedule": [[1, 0], [9, 1]]}
    with pytest.raises(OptionError, match=r"train\.gan_opt: D2SMModel has no discriminator"):
        validate_options({**raw, "train": train})
