"""Launchers and devices: what the environment says, and one line where it does not."""

from __future__ import annotations

import os
import socket

import pytest
import torch
from runs import equal, run_tool_to_end, start_tool, tiny_options, weights, write_options
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.objectives import Objectives
from d2sm_plugin.pipeline import devices
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.devices import choose_device
from d2sm_plugin.pipeline.launchers import TORCHRUN, enter_launcher, first_host, slurm_environment

TASK = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_NODELIST": "gpu[07-09],x1"}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[007-012,20],login1", "gpu007"),
        ("gpu[3,5-7]", "gpu3"),
        ("rack[2-3]-node[01-04].cluster,other", "rack2-node01.cluster"),
        ("tux-a", "tux-a"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes, host):
    assert first_host(nodes) == host


def test_a_task_of_slurm_in_the_words_of_torchrun():
    read = slurm_environment(TASK | {"SLURM_JOB_ID": "123456"})
    assert read == {
        "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": "23456",
    }  # fmt: skip
    assert slurm_environment(TASK | {"SLURM_STEP_NUM_TASKS": "4"})["WORLD_SIZE"] == "4"
    stated = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"}
    assert slurm_environment(TASK | stated).items() >= stated.items()
    ports = {slurm_environment(TASK | {"SLURM_JOB_ID": "5", "SLURM_STEP_ID": str(n)})["MASTER_PORT"] for n in range(9)}
    assert len(ports) == 9 and all(20_000 <= int(port) < 40_000 for port in ports)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_PROCID": "", "SLURM_JOB_NODELIST": ""}, "SLURM_PROCID, SLURM_NODELIST not set; start on a cl"),
        ({"SLURM_LOCALID": "a"}, "SLURM_LOCALID: expected a whole number, got 'a'"),
    ],
)
def test_what_is_missing_of_slurm(changes, message):
    with pytest.raises(OptionError, match=f"^--launcher slurm: {message}"):
        slurm_environment(TASK | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "3"}, r"this is process 3 \(RANK\) of only 2 \(WORLD_SIZE\)"),
        ({"WORLD_SIZE": "0"}, r"this is process 1 \(RANK\) of only 0"),
        ({"RANK": "²"}, "RANK: expected a whole number, got '²'"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK: expected a whole number, got ''"),
        ({"MASTER_PORT": "ssh"}, "MASTER_PORT: expected a whole number, got 'ssh'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT: expected 1 to 65535, got 99999"),
    ],
)
def test_processes_that_would_wait_in_vain(monkeypatch, changes, message):
    sound = dict(zip(TORCHRUN, ("1", "2", "1", "localhost", "29500"), strict=True))
    for name, value in (sound | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=f"^--launcher pytorch: {message}"):
        enter_launcher("pytorch")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def slurm_tasks(arguments, count: int) -> list[tuple[int, str]]:
    """Start the tasks of a step as srun would on this machine; return status and output of each."""
    shared = {"SLURM_NTASKS": str(count), "SLURM_JOB_NODELIST": "127.0.0.1", "MASTER_PORT": str(free_port())}
    tasks = [
        start_tool([*arguments, "--launcher", "slurm"], env=shared | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)})
        for n in range(count)
    ]
    outputs = [task.communicate(timeout=300)[0] for task in tasks]
    return [(task.returncode, output) for task, output in zip(tasks, outputs, strict=True)]


@pytest.mark.slow
def test_tasks_of_slurm_train_what_torchrun_trains(photographs, tmp_path):
    """Two processes, with the weights of torchrun's two, bit for bit."""
    files = {}
    for launcher in ("slurm", "pytorch"):
        (tmp_path / launcher).mkdir()
        options = tiny_options(photographs, tmp_path / launcher, total_iter=3)
        options["val"] = {"save_img": False}
        files[launcher] = write_options(options, tmp_path / launcher / "a.yml")
    for status, output in slurm_tasks(["-opt", files["slurm"]], 2):
        assert status == 0, output
    torchrun = [os.sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    status, output = run_tool_to_end(["-opt", files["pytorch"], "--launcher", "pytorch"], launcher=torchrun)
    assert status == 0, output
    assert equal(weights(tmp_path / "slurm"), weights(tmp_path / "pytorch"))


def test_without_slurm_it_is_one_line(photographs, tmp_path, monkeypatch):
    file = write_options(tiny_options(photographs, tmp_path), tmp_path / "a.yml")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    with pytest.raises(OptionError, match=r"^--launcher slurm: SLURM_PROCID, "):
        training.main(["-opt", str(file), "--launcher", "slurm"])


# ----------------------------------------------------------------------------------------------------------- devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_device_overrules_num_gpu(photographs, tmp_path):
    options = tiny_options(photographs, tmp_path, total_iter=1) | {"num_gpu": 1}
    file = write_options(options, tmp_path / "a.yml")
    with pytest.raises(OptionError, match=r"^num_gpu: 1 asked for, 0 found"):
        training.main(["-opt", str(file)])
    training.main(["-opt", str(file), "--device", "cpu"])
    assert weights(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", "meta", "graphics", "cpu:x"])
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(OptionError, match=f"^--device: '{device}' c") as error:
        choose_device("auto", device, None)
    assert "\n" not in str(error.value) and "aten::" not in str(error.value)


def test_devices_of_many_processes():
    assert choose_device("auto", "cpu", 1) == choose_device(0, None, 1) == "cpu"
    for device in ("cuda:1", "mps", "xpu"):
        with pytest.raises(OptionError, match=f"^--device {device}: of many processes each takes"):
            choose_device("auto", device, 0)


def test_what_num_gpu_asks_for_must_be_there(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("auto", None, None) == choose_device(1, None, None) == "cuda" and not chosen
    assert choose_device("auto", None, 3) == choose_device(2, "cuda", 2) == "cuda" and chosen == [1, 0]
    assert choose_device(0, None, 3) == "cpu"
    with pytest.raises(OptionError, match="3 asked for, 2 found"):
        choose_device(3, None, None)
    with pytest.raises(OptionError, match="2 GPUs need one process each: torchrun --nproc_per_node=2"):
        choose_device(2, None, None)


def test_a_number_chooses_one_of_several_devices(monkeypatch):
    chosen = []
    monkeypatch.setattr(devices, "usable_device", lambda text: text)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.xpu, "set_device", chosen.append)
    kinds = [choose_device(0, device, None) for device in ("cuda:1", "xpu:2", "cuda", "mps", "cpu")]
    assert kinds == ["cuda", "xpu", "cuda", "mps", "cpu"] and chosen == [1, 2]


EXTRACTOR = {"type": "TimmFeatures", "model": "resnet18", "weights": None}


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("d2sm", {"type": "D2SMLoss", "extractor": EXTRACTOR}),
        ("mmd", {"type": "DistributionLoss", "distance": "coral", "extractor": EXTRACTOR}),
        ("weighed", {"type": "MSELoss", "loss_weight": {"relative": 0.5}}),
    ],
)
def test_objectives_that_a_device_without_float64_cannot_compute(name, block):
    pixel = {"pixel_opt": {"type": "L1Loss"}}
    Objectives(pixel).refuse_without_float64()
    objectives = Objectives({**pixel, f"{name}_opt": block})
    assert isinstance(objectives, nn.Module)
    with pytest.raises(OptionError, match=f"^train.{name}_opt: it computes in float64, which this device does not"):
        objectives.refuse_without_float64()
