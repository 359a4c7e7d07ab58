from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_d2sm_model import batch, model_of

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.objective_weight import ObjectiveWeight, check_steps
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


def test_an_objective_of_every_third_step_has_three_times_its_weight():
    blocks = {
        "pixel_opt": {"type": "L1Loss"},
        "second_opt": {"type": "L1Loss", "every": 3, "schedule": [[3, 1], [6, 0.5]]},
    }
    model = model_of(**blocks)
    seconds = {}
    for step in range(1, 8):
        model.train_step([batch()], step)
        log = model.get_current_log()
        if "l_second" in log:
            seconds[step] = log["l_second"] / log["l_pixel"], log.get("grad_ratio/second")
    assert seconds == {3: (pytest.approx(3), pytest.approx(3)), 6: (pytest.approx(1.5), None)}


def test_the_gradients_of_resting_steps_add_up_to_those_of_every_step():
    """SGD without momentum on a linear objective: two steps at once are two steps."""
    ends = []
    for every in (1, 2):
        objectives = Objectives({"pixel_opt": {"type": "MSELoss"}, "second_opt": {"type": "L1Loss", "every": every}})
        image = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        for objectives.step in range(1, 5):
            losses = objectives({"gt": torch.ones(4)}, {"restored": image})
            if "second" in losses:
                losses["second"].backward()
        ends.append(image.grad)
    assert torch.equal(*ends)


def test_an_objective_that_rests_is_warned_of_in_its_first_step(caplog):
    model = model_of(second_opt={"type": "L1Loss", "loss_weight": 0, "every": 2})
    warned = []
    for step in (1, 2, 3, 4):
        with caplog.at_level("WARNING", logger="basicsr"):
            model.train_step([batch()], step)
        warned.append("train.second_opt does nothing" in caplog.text)
        caplog.clear()
    assert warned == [False, True, False, False]


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
    train["pixel_opt"] = {"type": "L1Loss", "every": 2}
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.every: in step 1 no objective counts"):
        validate_options({**raw, "train": train})
    train["pixel_opt"]["schedule"] = [[5, 1], [6, 0]]
    train["second_opt"] = {"type": "L1Loss", "schedule": [[1, 0], [4, 1], [7, 0], [8, 0], [9, 1]]}
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.every: in step 1 no objective counts"):
        validate_options({**raw, "train": train})
    train["second_opt"]["schedule"][0][1] = 1
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.every: in step 7 no objective counts"):
        validate_options({**raw, "train": train})
    validate_options({**raw, "train": {**train, "total_iter": 6}})
    del train["pixel_opt"]["schedule"]
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.every: in step 7 no objective counts"):
        validate_options({**raw, "train": train})
    del train["second_opt"]
    with pytest.raises(OptionError, match=r"train\.second_opt\.every: 10 exceeds total_iter"):
        validate_options({**raw, "train": {**train, "second_opt": {"type": "L1Loss", "every": 10}}})
    for wrong in (True, 1.5, "2"):
        with pytest.raises(OptionError, match=r"train\.second_opt\.every: "):
            validate_options({**raw, "train": {**train, "second_opt": {"type": "L1Loss", "every": wrong}}})
    train["pixel_opt"] = {"type": "L1Loss", "every": 0}
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.every: expected a number above 0, got 0"):
        validate_options({**raw, "train": train})
    train["pixel_opt"] = {"type": "L1Loss"}
    train["gan_opt"] = {"type": "GANLoss", "gan_type": "vanilla", "schedule": [[1, 0], [9, 1]]}
    with pytest.raises(OptionError, match=r"train\.gan_opt: D2SMModel has no discriminator"):
        validate_options({**raw, "train": train})


@pytest.mark.parametrize("every", [0, -1, 1.5, "2", True, None])
def test_rests_are_whole_numbers_of_steps_wherever_options_come_from(every):
    with pytest.raises(OptionError, match=r"train\.d2sm_opt\.every: expected a whole number of steps from 1, got"):
        ObjectiveWeight({"type": "L1Loss", "every": every}, "train.d2sm_opt")


def test_an_objective_that_would_never_count_is_an_error():
    relative = {"type": "L1Loss", "loss_weight": {"relative": 1.0}}
    model_of(second_opt={"type": "L1Loss", "every": 9})
    model_of(second_opt={**relative, "every": 4})
    with pytest.raises(OptionError, match=r"train\.second_opt\.every: 5 is more than half of total_iter"):
        model_of(second_opt={**relative, "every": 5})


L1, RELATIVE = {"type": "L1Loss"}, {"type": "L1Loss", "loss_weight": {"relative": 1, "steps": 2}}


@pytest.mark.parametrize(
    ("pixel", "second", "key", "step"),
    [
        ({"schedule": [[5, 0], [6, 1]]}, RELATIVE, "schedule", 1),  # it has nothing yet to be relative to
        ({"every": 2}, RELATIVE, "every", 1),
        ({"schedule": [[1, 1], [2, 0]]}, {**RELATIVE, "schedule": [[1, 0.1], [2, 0], [3, 1]]}, "schedule", 2),
        ({"loss_weight": 0}, {**L1, "every": 2}, "loss_weight", 1),
    ],
)
def test_weights_that_nothing_has_measured_do_not_count(pixel, second, key, step):
    with pytest.raises(OptionError, match=rf"train\.pixel_opt\.{key}: in step {step} no objective counts"):
        model_of(pixel_opt={**L1, **pixel}, second_opt=second)


@pytest.mark.parametrize(
    ("pixel", "second"),
    [
        ({"schedule": [[8, 0], [9, 1]]}, RELATIVE),
        ({"schedule": [[1, 1], [2, 0]]}, {**RELATIVE, "schedule": [[1, 0], [2, 1]]}),
        ({}, {**RELATIVE, "schedule": [[8, 0], [9, 1]]}),
        ({}, {**L1, "schedule": [[100, 0], [200, 1]]}),
        ({}, {**L1, "every": 8, "schedule": [[5, 1], [6, 0]]}),
    ],
)
def test_the_log_tells_of_objectives_that_never_count(pixel, second):
    notes = model_of(pixel_opt={**L1, **pixel}, second_opt=second, third_opt=L1).opt["notes"]
    assert [note.split(":")[0] for note in notes] == ["train.second_opt"]
    assert "in none of the 9 steps does it count" in notes[0]


def test_a_crossfade_to_a_relative_weight_trains_in_every_step():
    second = {**RELATIVE, "schedule": [[1, 0], [3, 1]]}
    model = model_of(pixel_opt={**L1, "schedule": [[2, 1], [4, 0]]}, second_opt=second)
    for step in range(1, 6):
        before = model.net_g.scale.clone()
        model.train_step([batch()], step)
        assert not torch.equal(before, model.net_g.scale)


def test_steps_are_looked_through_to_the_first_that_is_empty():
    rising, falling = {**L1, "schedule": [[10, 0], [20, 1]]}, {**L1, "schedule": [[5, 1], [11, 0]]}
    check_steps({"a_opt": rising, "b_opt": falling}, 30)
    with pytest.raises(OptionError, match=r"train\.a_opt\.schedule: in step 10 no objective counts"):
        check_steps({"a_opt": rising, "b_opt": {**L1, "schedule": [[5, 1], [10, 0]]}}, 30)


@pytest.mark.parametrize("total_iter", [10**6, 10**15])
def test_long_trainings_are_looked_through_as_far_as_something_changes(total_iter):
    late = {**L1, "schedule": [[300_000, 0], [300_001, 1]]}
    check_steps({"pixel_opt": {**L1, "every": 97}, "a_opt": {**RELATIVE, "every": 101}, "b_opt": L1}, total_iter)
    check_steps({"pixel_opt": L1, "late_opt": {**L1, "schedule": [[1, 0], [10**14, 1]]}}, total_iter)
    with pytest.raises(OptionError, match=r"train\.a_opt\.schedule: in step 300000 no objective counts"):
        check_steps({"a_opt": {**L1, "schedule": [[1, 1], [300_000, 0]]}, "late_opt": late}, total_iter)
    with pytest.raises(OptionError, match=r"train\.late_opt\.schedule: in step 1 no objective counts"):
        check_steps({"late_opt": late, "b_opt": {**L1, "every": 2}}, total_iter)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.lists(st.booleans(), max_size=4)), min_size=1, max_size=3),
    st.integers(1, 30),
)
def test_it_is_what_the_steps_say_one_by_one(drawn, total_iter):
    """A made-up training that goes through its steps says the same."""
    blocks = {}
    for number, (every, relative, factors) in enumerate(drawn):
        points = [[4 * place + 2, float(factor)] for place, factor in enumerate(factors)]
        block = {**L1, "every": every, **({"schedule": points} if any(factors) else {})}
        blocks["pixel_opt" if number == 0 else f"other{number}_opt"] = (
            {**RELATIVE, **block} if relative and number else block
        )
    weights = {key: ObjectiveWeight(block, key) for key, block in blocks.items()}
    used, measured, empty = set(), set(), False
    for step in range(1, total_iter + 1):
        scheduled = {key for key, weight in weights.items() if weight.scheduled(step) > 0}
        counting = {key for key in scheduled if weights[key].relative is None or key in measured}
        used |= counting
        empty |= not counting
        measured |= scheduled if "pixel_opt" in scheduled else set()
    too_long = any(w.every * (1 if w.relative is None or w.every == 1 else 2) > total_iter for w in weights.values())
    with pytest.raises(OptionError) if empty or too_long else nullcontext():
        check_steps(blocks, total_iter)
    with pytest.raises(OptionError) if too_long else nullcontext():
        notes = check_steps(blocks, total_iter, may_rest=True)
        assert {note.split(":")[0] for note in notes} == {f"train.{key}" for key in set(blocks) - used}


def test_relative_weights_are_of_the_pull_of_a_pixel_objective_that_rests():
    """Two L1 of which the first rests: the second, relative to it, has its share of the pull over two steps."""
    resting = {"type": "L1Loss", "every": 2}
    second = {"type": "L1Loss", "loss_weight": {"relative": 0.5}}
    model = model_of(pixel_opt=resting, second_opt=second, third_opt={"type": "L1Loss"})
    for step in (1, 2, 3):
        model.train_step([batch()], step)
    assert model.get_current_log()["weight/second"] == pytest.approx(0.5)


def test_a_resumed_training_rests_in_the_same_steps():
    block = {"type": "L1Loss", "every": 2, "loss_weight": {"relative": 0.5, "steps": 2}}
    whole, part, resumed = (model_of(second_opt=block) for _ in range(3))
    for step in range(1, 9):
        whole.train_step([batch()], step)
    for step in range(1, 6):
        part.train_step([batch()], step)
    resumed.net_g.load_state_dict(part.net_g.state_dict())
    resumed.load_training_state({**part.training_state(), "iter": 5})
    for step in range(6, 9):
        resumed.train_step([batch()], step)
    assert torch.equal(whole.net_g.scale, resumed.net_g.scale)
