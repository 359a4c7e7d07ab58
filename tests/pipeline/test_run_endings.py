"""However a training ends: what it says, what it has saved, and that it goes on from there as if it had not ended."""

from __future__ import annotations

import csv
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import foreign
import pytest
import torch
from runs import equal, tiny_options, weights, write_options

from d2sm_plugin.errors import CheckpointError, D2SMError, DataError, TrainingError
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.checkpoint import CheckpointStore, read_state
from d2sm_plugin.pipeline.metrics_file import MetricsFile
from d2sm_plugin.weight_files import load_file

TOTAL = 6


@pytest.fixture(autouse=True)
def _reset():
    foreign.reset()


@pytest.fixture
def pictures(photographs, tmp_path):
    return shutil.copytree(photographs, tmp_path / "pictures")


def options_of(pictures, root, **train):
    """A run that saves at its end alone, and validates at its third step and its end."""
    options = tiny_options(pictures, root, **{"total_iter": TOTAL, "ema_decay": 0.5, **train})
    options["network_g"] = {"type": "PlannedNet"}
    options["train"]["pixel_opt"] = {"type": "PlannedLoss"}
    options["val"] |= {"val_freq": 3, "save_best": "mae"}
    options["val"]["metrics"] = {"mae": {"type": "planned_metric", "better": "lower"}}
    options["datasets"]["val_2"] = {**options["datasets"]["val"], "name": "again", "sigma": 50}
    options["logger"]["save_checkpoint_freq"] = 1000
    return options


def run(options, *arguments) -> bool:
    path = write_options(options, tmp_path_of(options) / f"{options['name']}.yml")
    return training.train(["-opt", str(path), *arguments])


def tmp_path_of(options):
    return Path(options["path"]["experiments_root"]).parent


def folder_of(options):
    return tmp_path_of(options) / "experiments" / options["name"]


def saved_steps(options):
    return sorted(int(file.stem) for file in (folder_of(options) / "training_states").glob("*.state"))


def rows(options):
    with (folder_of(options) / "metrics.csv").open(newline="") as file:
        return list(csv.reader(file))


def assert_goes_on_as_if_it_had_not_ended(options):
    """The rest of the run, and the whole of it under another name, make the same weights and measures."""
    foreign.reset()
    assert run(options, "--auto_resume")
    whole = {**options, "name": "whole"}
    assert run(whole)
    root = tmp_path_of(options)
    for key in ("params", "params_ema"):
        assert equal(weights(root, options["name"], key=key), weights(root, "whole", key=key))
        best = "net_g_best_mae.safetensors"
        assert equal(weights(root, options["name"], best, key), weights(root, "whole", best, key))
    assert rows(options) == rows(whole)
    assert len(rows(options)) == 1 + 2 * 2  # two validations of two sets
    assert not list(folder_of(options).rglob("*.partial"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_damaged_meanwhile(pictures, tmp_path, workers):
    kept = shutil.copytree(pictures, tmp_path / "kept")
    options = options_of(pictures, tmp_path)
    options["datasets"]["train"] |= {"num_worker_per_gpu": workers, "num_prefetch_queue": 1}

    def damage():
        for file in pictures.iterdir():
            cut = tmp_path / file.name  # put in place at once: a worker may be reading
            cut.write_bytes(file.read_bytes()[:3000])
            cut.replace(file)

    foreign.plans["loss"] = {2: damage}
    with pytest.raises(DataError, match=r"pictures/\w+\.png: it does not decode") as caught:
        run(options)
    assert "\n" not in str(caught.value)
    assert saved_steps(options)[0] in range(2, 6)  # workers are some steps ahead
    shutil.rmtree(pictures)
    kept.rename(pictures)
    assert_goes_on_as_if_it_had_not_ended(options)


def test_a_worker_that_the_system_kills(pictures, tmp_path):
    options = options_of(pictures, tmp_path)
    options["datasets"]["train"] |= {"type": "DyingDataset", "num_worker_per_gpu": 1}
    with pytest.raises(DataError, match=r"datasets\.train: a process that loads images has died.*num_worker_per_gpu"):
        run(options)
    assert saved_steps(options)[0] in (1, 2)  # two samples a step; the fifth was never read
    assert_goes_on_as_if_it_had_not_ended(options)


@pytest.mark.parametrize(
    ("part", "call", "message", "steps"),
    [
        ("loss", 3, r"^train\.pixel_opt: PlannedLoss raised ZeroDivisionError: division by zero$", [2]),
        ("network", 5, r"^network_g: PlannedNet on images \(2, 3, 32, 32\) of \w+, \w+ raised ZeroDivisionError", [4]),
        ("network in validation", 2, r"PlannedNet.*ZeroDivisionError", [3]),
        ("metric", 8, r"val\.metrics\.mae.*planned_metric.*ZeroDivisionError: division by zero", [3]),
        ("loss", 1, r"PlannedLoss raised ZeroDivisionError", []),
    ],
)
def test_foreign_code_that_raises(pictures, tmp_path, part, call, message, steps, capsys):
    options = options_of(pictures, tmp_path)
    foreign.plans[part] = dict.fromkeys(range(call, 1000), foreign.fail)
    with pytest.raises(D2SMError, match=message) as caught:
        run(options)
    assert "\n" not in str(caught.value)
    assert saved_steps(options) == steps
    log = next(folder_of(options).glob("train_*.log")).read_text()
    assert "Traceback" in log and "ZeroDivisionError" in log
    assert "Traceback" not in capsys.readouterr().err
    if part in ("metric", "network in validation"):  # no dropout was drawn for a step that failed
        assert_goes_on_as_if_it_had_not_ended(options)
    elif steps:
        foreign.reset()
        assert run(options, "--auto_resume")


def test_losses_that_stay_non_finite(pictures, tmp_path):
    options = options_of(pictures, tmp_path, max_nonfinite_steps=2)
    options["train"]["odd_opt"] = {"type": "SpoiltLoss", "from_step": 4}
    with pytest.raises(TrainingError, match=r"2 steps in a row were left out.*loss not finite in odd on "):
        run(options)
    assert saved_steps(options) == [4]  # the first of the two was left out, too: its weights are those of step 3
    state = read_state(folder_of(options) / "training_states" / "4.state")
    assert state["nonfinite"] == [0, 2]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path, file="net_g_4.safetensors").values())


def test_weights_that_are_spoilt_are_not_saved(pictures, tmp_path):
    options = options_of(pictures, tmp_path, optim_g={"type": "SGD", "lr": 1e-3}, max_nonfinite_steps=2)
    options["logger"]["save_checkpoint_freq"] = 2
    options["val"]["val_freq"] = None

    def spoil():
        foreign.model.optimizers[0].param_groups[0]["lr"] = math.inf

    foreign.plans["loss"] = {4: spoil}
    real = training.TrainingRun._build

    def build(self, drawn):
        real(self, drawn)
        foreign.model = self.model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.TrainingRun, "_build", build)
        with pytest.raises(TrainingError, match=r"step 4 is not saved: there is inf or NaN in the weights.*2\.state"):
            run(options)
    assert saved_steps(options) == [2]
    files = (folder_of(options) / "models").glob("*.safetensors")
    assert all(tensor.isfinite().all() for file in files for tensor in load_file(file)["params"].values())


def test_a_full_disk_when_the_state_is_saved(pictures, tmp_path, monkeypatch, capsys):
    options = options_of(pictures, tmp_path)
    options["logger"]["save_checkpoint_freq"] = 2
    real = torch.save

    def save(value, file, **settings):
        if "iter" in value and value["iter"] == 4:
            raise OSError(28, "No space left on device")
        real(value, file, **settings)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(CheckpointError, match=r"4\.state: cannot be written \(No space left on device.*--auto_resume"):
        run(options)
    assert saved_steps(options) == [2]
    monkeypatch.undo()
    assert_goes_on_as_if_it_had_not_ended(options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(("part", "call", "step"), [("loss", 4, 4), ("metric", 3, 3), ("metric", 23, 6)])
def test_asked_to_stop_in_a_step_or_in_a_validation(pictures, tmp_path, number, part, call, step):
    options = options_of(pictures, tmp_path)
    foreign.plans[part] = {call: foreign.send(number)}
    assert run(options) is False
    assert saved_steps(options) == [step]
    assert_goes_on_as_if_it_had_not_ended(options)


@pytest.mark.parametrize(("owner", "method"), [(CheckpointStore, "save_network"), (MetricsFile, "add")])
def test_killed_between_the_files_of_a_validation(pictures, tmp_path, owner, method, monkeypatch):
    """After the first set is measured, after the best network is written: the whole validation is made again."""
    options = options_of(pictures, tmp_path)
    options["logger"]["save_checkpoint_freq"] = 1

    real = getattr(owner, method)

    def die(*arguments):
        if method == "add" or "best" in arguments[2]:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, die)
        with pytest.raises(KeyboardInterrupt):
            run(options)
    assert saved_steps(options)[-1] == 3
    assert not (folder_of(options) / "metrics.csv").exists()
    assert_goes_on_as_if_it_had_not_ended(options)


def test_two_trainings_under_one_name(pictures, tmp_path):
    options = options_of(pictures, tmp_path)
    options["val"]["val_freq"] = None
    assert run(options)
    kept = {file: file.read_bytes() for file in folder_of(options).rglob("*") if file.is_file()}
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'wb'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    lock = folder_of(options) / ".lock"
    with subprocess.Popen([sys.executable, "-c", program, lock], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        for arguments in ([], ["--auto_resume"]):
            with pytest.raises(DataError, match=r"experiments/tiny: another process is at work under this name"):
                run(options, *arguments)
        other.communicate("")
    assert {file: file.read_bytes() for file in folder_of(options).rglob("*") if file.is_file()} == kept
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["tiny"]
    assert run(options)  # the lock ends with its process


def test_a_resume_that_fails_changes_no_file(pictures, tmp_path):
    options = options_of(pictures, tmp_path)
    options["val"]["val_freq"] = None
    assert run(options)
    kept = {file: file.read_bytes() for file in folder_of(options).rglob("*") if file.is_file()}
    (tmp_path / "whole").mkdir()
    options["datasets"]["train"]["dataroot_gt"] = str(tmp_path / "whole")  # no picture in it
    with pytest.raises(DataError):
        run(options, "--auto_resume")
    assert {file: file.read_bytes() for file in folder_of(options).rglob("*") if file.is_file()} == kept
