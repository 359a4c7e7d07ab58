"""Options that changed between a training and its continuation: applied and told, or refused by name."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
from runs import equal, tiny_options, weights, write_options

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.resume import ResumeChanges

D2SM = {
    "type": "D2SMLoss",
    "extractor": {"type": "TimmFeatures", "model": "test_efficientnet", "weights": None},
    "queue": {"type": "QueueSampler", "size": 20},
}
MULTI_STEP = {"type": "MultiStepLR", "milestones": [3, 6], "gamma": 0.5}


def options_of(images="images", root=None, **train):
    root = root or Path("runs")
    return tiny_options(images, root, d2sm_opt=copy.deepcopy(D2SM), scheduler=MULTI_STEP, **train)


def changed(path, value, before=None):
    """Compare options with those in which one value differs."""
    before = before or options_of()
    after = copy.deepcopy(before)
    *parents, last = path.split(".")
    block = after
    for key in parents:
        block = block.setdefault(key, {})
    if value is None:
        block.pop(last)
    else:
        block[last] = value
    return ResumeChanges(validate_options(before), validate_options(after), 8)


@pytest.mark.parametrize(
    ("path", "value", "new_schedule"),
    [
        ("train.optim_g.lr", 1e-5, True),
        ("train.optim_g.betas", [0.8, 0.9], True),
        ("train.scheduler.milestones", [100], True),
        ("train.scheduler", None, True),
        ("train.warmup_iter", 100, True),
        ("train.total_iter", 99, False),
        ("train.accumulate", 2, False),
        ("train.grad_clip", 0.5, False),
        ("train.pixel_opt.loss_weight", 2.0, False),
        ("train.d2sm_opt.loss_weight", 2.0, False),
        ("train.d2sm_opt.schedule", [[0, 0], [10, 1]], False),
        ("datasets.train.batch_size_per_gpu", 3, False),
        ("datasets.train.num_worker_per_gpu", 2, False),
        ("datasets.val.sigma", 50, False),
        ("datasets.val_2", {"name": "v", "type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 50}, False),
        ("val.metrics.ssim", {"type": "calculate_ssim", "crop_border": 0}, False),
        ("logger.print_freq", 7, False),
    ],
)
def test_applied(path, value, new_schedule):
    actual = changed(path, value)
    assert actual.new_schedule is new_schedule
    assert any(path in line and "applied" in line for line in actual.lines())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("network_g.num_feat", 16),
        ("train.optim_g.type", "AdamW"),
        ("train.optim_g.amsgrad", True),
        ("train.d2sm_opt.queue.size", 32),
        ("train.d2sm_opt.extractor.model", "test_resnet"),
        ("train.d2sm_opt", None),
        ("train.pixel_opt.type", "MSELoss"),
        ("train.more_opt", {"type": "L1Loss"}),
        ("train.ema_decay", 0.9),
    ],
)
def test_refused(path, value):
    with pytest.raises(OptionError, match=f"step 8 cannot go on with what has changed: .*{path}.*put it back"):
        changed(path, value)


def test_every_refused_key_is_named_and_what_is_equal_is_not_told():
    before, after = options_of(), options_of()
    assert ResumeChanges(validate_options(before), validate_options(after), 8).lines() == []
    after["network_g"]["num_layers"] = 4
    after["train"]["optim_g"]["type"] = "SGD"
    with pytest.raises(
        OptionError, match=r"network_g\.num_layers \(3, now 4\), train\.optim_g\.type \(Adam, now SGD\)"
    ):
        ResumeChanges(validate_options(before), validate_options(after), 8)


def test_weights_to_start_from_are_not_used():
    actual = changed("path.pretrain_network_g", "w.pth")
    assert "not used" in actual.lines()[-1]


@pytest.mark.parametrize(
    "extra",
    [
        {"scheduler": {"type": "MultiStepLR", "milestones": [2, 5], "gamma": 0.5}},
        {"scheduler": {"type": "CosineAnnealingRestartLR", "periods": [20], "eta_min": 1e-5}, "warmup_iter": 3},
        {"scheduler": {"type": "OneCycleLR", "max_lr": 0.1, "total_steps": 20}},
        {"scheduler": {"type": "ExponentialLR", "gamma": 0.9}, "optim_g": {"type": "SGD", "lr": 0.5, "momentum": 0.9}},
        {"warmup_iter": 20},
    ],
    ids=lambda extra: extra.get("scheduler", {}).get("type", "warm-up"),
)
def test_a_new_schedule_is_where_it_would_be_had_it_been_so_from_the_start(extra):
    def model_of(**train):
        raw = tiny_options("images", Path("runs"), total_iter=20, **train)
        return D2SMModel(validate_options(raw) | {"dist": False, "rank": 0, "world_size": 1})

    old = model_of(optim_g={**extra.get("optim_g", {"type": "Adam", "lr": 0.3})})
    state = {**old.training_state(), "iter": 7}
    resumed, whole = model_of(**extra), model_of(**extra)
    resumed.load_training_state(state, new_schedule=True)
    for step in range(1, 15):
        whole.update_learning_rate(step, warmup_iter=extra.get("warmup_iter", -1))
        if step > 7:
            resumed.update_learning_rate(step, warmup_iter=extra.get("warmup_iter", -1))
            assert resumed.get_current_learning_rate() == whole.get_current_learning_rate()


def train(options, tmp_path, *arguments):
    return training.train(["-opt", str(write_options(options, tmp_path / "tiny.yml")), *arguments])


def test_a_training_is_made_longer_with_another_schedule(photographs, tmp_path, capsys):
    """Beyond its first end, where a cosine that ends is made longer: as the whole run with the longer one goes on."""
    cosine = {"type": "CosineAnnealingRestartLR", "periods": [4], "eta_min": 1e-5}
    options = tiny_options(photographs, tmp_path, total_iter=4, scheduler=cosine)
    assert train(options, tmp_path)
    options["train"] |= {"total_iter": 8, "scheduler": {**cosine, "periods": [8]}}
    assert train(options, tmp_path, "--auto_resume")
    log = capsys.readouterr().err
    rate = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * 7 / 8))
    assert f"iter:       8, lr:({rate:.3e},)" in log
    assert "| train.scheduler.periods | [4]" in log and "| applied" in log


def test_a_lower_learning_rate_is_used_and_a_wider_network_refused(photographs, tmp_path, capsys):
    options = tiny_options(photographs, tmp_path, total_iter=4)
    assert train(options, tmp_path)
    wider = copy.deepcopy(options)
    wider["network_g"]["num_feat"] = 16
    with pytest.raises(OptionError, match=r"network_g\.num_feat \(8, now 16\)"):
        train(wider, tmp_path, "--auto_resume")
    before = weights(tmp_path)
    options["train"] |= {"total_iter": 6, "optim_g": {"type": "Adam", "lr": 1e-30}}
    assert train(options, tmp_path, "--auto_resume")
    assert "lr:(1.000e-30,)" in capsys.readouterr().err
    assert equal(before, weights(tmp_path))
