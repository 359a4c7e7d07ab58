"""The plugin in BasicSR's own trainer: ``import d2sm_plugin; from basicsr.train import train_pipeline``."""

from __future__ import annotations

import copy
import subprocess
import sys

import basicsr.test
import basicsr.train
import pytest
import torch
import yaml
from basicsr.utils import logger as host_logger
from PIL import Image
from runs import ROOT, equal, tiny_options

from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.pipeline.checkpoint import read_state
from d2sm_plugin.pipeline.host_trainer import _InHost

D2SM = {
    "type": "D2SMLoss",
    "extractor": {"type": "TimmFeatures", "model": "test_resnet", "weights": None},
    "queue": 8,
}
GAN = {
    "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4},
    "train": {
        "optim_d": {"type": "Adam", "lr": 1e-4},
        "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1},
    },
}
REAL = {"high_order_degradation": False, "l1_gt_usm": False, "percep_gt_usm": True, "gan_gt_usm": False, **GAN}


@pytest.fixture(scope="module")
def pairs(photographs, tmp_path_factory):
    """Folders of clean pictures and of pictures half as large."""
    small = tmp_path_factory.mktemp("small")
    for file in photographs.iterdir():
        with Image.open(file) as image:
            image.reduce(2).save(small / file.name)
    return {"dataroot_gt": str(photographs), "dataroot_lq": str(small)}


def host_options(pairs, model_type="SRModel", **changes):
    """An option file in BasicSR's own dialect: MSRResNet x2 on pairs of pictures."""
    block = {"type": "PairedImageDataset", "io_backend": {"type": "disk"}, "scale": 2, **pairs}
    batches = {"batch_size_per_gpu": 3, "num_worker_per_gpu": 0, "use_shuffle": False}
    options = {
        "name": "tiny",
        "model_type": model_type,
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {"name": "t", **block, "gt_size": 32, "use_hflip": True, "use_rot": True, **batches},
            "val": {"name": "photos", **block},
        },
        "network_g": {"type": "MSRResNet", "num_feat": 8, "num_block": 1, "upscale": 2},
        "path": {},
        "train": {
            "total_iter": 4,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [3], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss"},
            **changes.pop("train", {}),
        },
        "val": {"val_freq": 4, "save_img": False, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False},
    }
    return options | changes


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run BasicSR's trainer; returns what it logs at each step."""

    def run(options, *arguments):
        logs = []

        class Messages(basicsr.train.MessageLogger):
            def __call__(self, values):
                logs.append(dict(values))
                super().__call__(values)

        monkeypatch.setattr(basicsr.train, "MessageLogger", Messages)
        file = tmp_path / "options.yml"
        file.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["train", "-opt", str(file), *arguments])
        monkeypatch.chdir(tmp_path)
        monkeypatch.setitem(host_logger.initialized_logger, "basicsr", True)  # no handlers that outlive the test
        basicsr.train.train_pipeline(str(tmp_path))
        return [{key: value for key, value in log.items() if key.startswith(("l_", "weight/"))} for log in logs]

    return run


def state_of(tmp_path, step=4):
    return torch.load(tmp_path / "experiments/tiny/training_states" / f"{step}.state", weights_only=True)


def network(tmp_path, step="latest", key="params"):
    return torch.load(tmp_path / f"experiments/tiny/models/net_g_{step}.pth", weights_only=True)[key]


def test_d2sm_model_trains_validates_saves_and_resumes(train, photographs, tmp_path, monkeypatch):
    options = tiny_options(photographs, tmp_path, d2sm_opt=D2SM, total_iter=6, ema_decay=0.9)
    options |= {"model_type": "D2SMModel", "path": {}}
    options["datasets"]["train"] |= {"name": "t"}
    options["val"] |= {"val_freq": 3, "save_img": True}
    options["logger"] |= {"print_freq": 1, "save_checkpoint_freq": 3}
    logs = train(options)
    assert len(logs) == 6 and all(log.keys() == {"l_pixel", "l_d2sm"} for log in logs)
    assert logs[-1]["l_d2sm"] > 0 and not any(log["l_pixel"] == logs[0]["l_pixel"] for log in logs[1:])
    whole = state_of(tmp_path, 6)
    assert whole["objectives"]["terms.d2sm.queue.filled"] == 8
    rows = (tmp_path / "experiments/tiny/metrics.csv").read_text().splitlines()
    assert [row.split(",")[:4] for row in rows[1:]] == [[step, "photos", "6", "psnr"] for step in ("3", "6")]
    assert len(list((tmp_path / "experiments/tiny/visualization/photos").glob("*_6.png"))) == 6
    (tmp_path / "experiments/tiny/training_states/6.state").unlink()

    restored = []
    resume = _InHost.resume_training

    def resume_training(model, state):
        resume(model, state)
        restored.extend(copy.deepcopy([model.net_g_ema.state_dict(), model.objectives.state_dict()]))

    monkeypatch.setattr(_InHost, "resume_training", resume_training)
    logs = train(options, "--auto_resume")
    assert len(logs) == 3
    assert equal(restored[0], network(tmp_path, 3, "params_ema"))
    assert equal(restored[1], state_of(tmp_path, 3)["objectives"])
    assert state_of(tmp_path, 6)["optimizers"][0]["state"][0]["step"] == 6


def test_d2sm_model_in_the_hosts_tester(photographs, tmp_path, monkeypatch):
    options = tiny_options(photographs, tmp_path) | {"model_type": "D2SMModel", "path": {}}
    options["datasets"] = {"test_1": options["datasets"]["val"]}
    options["val"] |= {"save_img": True, "suffix": "x"}
    file = tmp_path / "options.yml"
    file.write_text(yaml.safe_dump(options), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["test", "-opt", str(file)])
    monkeypatch.setitem(host_logger.initialized_logger, "basicsr", True)
    basicsr.test.test_pipeline(str(tmp_path))
    assert len(list((tmp_path / "results/tiny/visualization/photos").glob("*_x.png"))) == 6


def test_what_only_the_plugins_own_trainer_does_is_an_error(train, photographs, tmp_path):
    options = tiny_options(photographs, tmp_path, accumulate=2) | {"path": {}, "model_type": "D2SMModel"}
    options["datasets"]["train"] |= {"name": "t"}
    with pytest.raises(OptionError, match=r"train.accumulate: BasicSR's own trainer does not do this"):
        train(options)


@pytest.mark.parametrize("model_type", ["SRModel", "ESRGANModel", "RealESRGANModel"])
def test_d2sm_as_perceptual_opt(train, pairs, tmp_path, monkeypatch, model_type):
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)  # RealESRGANModel wants a GPU at any rate
    changes = {"SRModel": {}, "ESRGANModel": GAN, "RealESRGANModel": REAL}[model_type]
    options = host_options(pairs, model_type, **copy.deepcopy(changes))
    options["train"] |= {"total_iter": 2, "perceptual_opt": D2SM}
    key = "l_percep" if model_type == "SRModel" else "l_g_percep"
    assert [log[key] > 0 for log in train(options)] == [True, True]
    kept = state_of(tmp_path, 2)["schedulers"][-1]
    assert kept["step"] == 2 and kept["cri_perceptual"]["queue.filled"] == 6


def test_a_host_model_with_every_objective(train, pairs, tmp_path):
    options = host_options(pairs, "SRModelWithObjectives")
    alone = train(options)
    further = {"d2sm_opt": D2SM, "tv_opt": {"type": "TVLoss", "schedule": [[1, 1], [3, 0]], "takes": ["restored"]}}
    options["train"] |= further
    logs = train(options)
    assert [set(log) for log in logs] == [{"l_pix", "l_d2sm", "l_tv"}] * 2 + [{"l_pix", "l_d2sm"}] * 2
    assert logs[0]["l_pix"] == alone[0]["l_pix"] and logs[-1]["l_pix"] != alone[-1]["l_pix"]
    whole = state_of(tmp_path)["schedulers"][-1]
    assert whole["objectives"]["terms.d2sm.queue.filled"] == 8

    middle = state_of(tmp_path, 2)["schedulers"][-1]
    (tmp_path / "experiments/tiny/training_states/4.state").unlink()
    options["train"]["total_iter"] = 3
    logs = train(options, "--auto_resume")
    assert [set(log) for log in logs] == [{"l_pix", "l_d2sm"}]  # the schedule goes on
    after = torch.load(tmp_path / "experiments/tiny/training_states/2.state", weights_only=True)["schedulers"][-1]
    assert equal(after["objectives"], middle["objectives"])


def test_objectives_that_rest_in_a_host_model(train, pairs):
    options = host_options(pairs, "SRModelWithObjectives")
    options["train"] |= {"tv_opt": {"type": "TVLoss", "every": 2, "takes": ["restored"]}, "total_iter": 2}
    assert [set(log) for log in train(options)] == [{"l_pix"}, {"l_pix", "l_tv"}]
    options["train"]["tv_opt"]["every"] = 3
    with pytest.raises(OptionError, match=r"train\.tv_opt\.every: 3 exceeds total_iter"):
        train(options)


def test_keys_that_basicsr_does_not_know_are_named(train, pairs):
    options = host_options(pairs, "SRModelWithObjectives")
    options["train"]["pixel_opt"]["every"] = 2
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.every: SRModelWithObjectives builds this objective and"):
        train(options)


def test_relative_weights_in_a_host_model(train, pairs, tmp_path):
    options = host_options(pairs, "SRModelWithObjectives")
    options["train"]["d2sm_opt"] = {**D2SM, "loss_weight": {"relative": 0.5, "steps": 2}}
    weights = [log["weight/d2sm"] for log in train(options)]
    assert weights[0] == 0 < weights[1]
    kept = state_of(tmp_path)["schedulers"][-1]["objectives"]
    assert kept["weights.d2sm.relative.count"] > 0
    (tmp_path / "experiments/tiny/training_states/4.state").unlink()
    assert train(options, "--auto_resume")[0]["weight/d2sm"] == weights[2]  # then the host draws other crops

    options["train"]["perceptual_opt"] = options["train"]["d2sm_opt"]
    with pytest.raises(OptionError, match=r"perceptual_opt\.loss_weight: SRModelWithObjectives builds this objective"):
        train(options)
    options = host_options(pairs, name="other")
    options["train"]["perceptual_opt"] = {**D2SM, "loss_weight": {"relative": 0.5}}
    with pytest.raises(OptionError, match=r"perceptual_opt\.loss_weight: SRModel builds this.* SRModelWithObjectives"):
        train(options)


def test_objectives_beside_a_perceptual_pair_are_logged_each(train, pairs):
    options = host_options(pairs, "ESRGANModelWithObjectives", **copy.deepcopy(GAN))
    options["train"] |= {"perceptual_opt": D2SM, "ssim_opt": {"type": "SSIMLoss"}, "total_iter": 1}
    for log in train(options):
        assert {"l_g_pix", "l_percep", "l_ssim", "l_g_gan"} <= set(log)


def test_an_objective_that_nobody_reads_is_an_error(train, pairs):
    options = host_options(pairs)
    options["train"]["d2sm_opt"] = D2SM
    with pytest.raises(OptionError, match=r"train\.d2sm_opt: SRModel reads no such block.*SRModelWithObjectives"):
        train(options)
    options["train"]["d2sm_opt"] = {"type": "MSELoss"}
    with pytest.warns(UserWarning, match=r"train\.d2sm_opt: SRModel reads no such block"):
        train(options)


def test_three_lines_before_or_after(pairs, tmp_path):
    """The order of the imports does not matter."""
    (tmp_path / "options.yml").write_text(
        yaml.safe_dump(host_options(pairs, train={"total_iter": 1, "perceptual_opt": D2SM}))
    )
    script = (
        "import sys; from torchvision.transforms import functional\n"
        "sys.modules['torchvision.transforms.functional_tensor'] = functional\n"
        "from basicsr.train import train_pipeline\nimport d2sm_plugin\n"
        f"train_pipeline({str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "-opt", str(tmp_path / "options.yml")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "l_percep" in done.stdout + done.stderr


def test_a_state_of_the_hosts_trainer_is_not_taken_for_the_plugins(train, pairs, tmp_path):
    train(host_options(pairs))
    with pytest.raises(CheckpointError, match="not a training state"):
        read_state(tmp_path / "experiments/tiny/training_states/4.state")
