"""Training with ``noise_on: device``: killed and continued, by two processes, and refused where it cannot be done."""

from __future__ import annotations

import signal
import sys

import pytest
import torch
from runs import equal, read_until, run_tool_to_end, start_tool, tiny_options, weights, write_options

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.host_models import build_in_host
from d2sm_plugin.models.restore import move_batch
from d2sm_plugin.pipeline.loaders import TrainBatches

STEPS = 30


def options_with(photographs, root, **train_set):
    options = tiny_options(photographs, root, total_iter=STEPS, ema_decay=0.9)
    options["datasets"]["train"] |= {"noise_on": "device", **train_set}
    options["logger"] |= {"save_checkpoint_freq": 5, "print_freq": 1}
    return options


def trained(options, root, *arguments, launcher=None):
    root.mkdir(exist_ok=True)
    path = write_options(options, root / "a.yml")
    status, output = run_tool_to_end(["-opt", path, *arguments], launcher=launcher)
    assert status == 0, output
    return weights(root)


def test_killed_and_continued_it_equals_an_uninterrupted_run(photographs, tmp_path):
    whole = trained(options_with(photographs, tmp_path / "whole"), tmp_path / "whole")
    options = options_with(photographs, tmp_path, num_worker_per_gpu=1)
    process = start_tool(["-opt", write_options(options, tmp_path / "a.yml")])
    read_until(process, "iter:      13")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert equal(whole, trained(options, tmp_path, "--auto_resume"))


@pytest.mark.slow
def test_two_processes_of_half_the_batch_equal_one(photographs, tmp_path):
    results = []
    for processes in (1, 2):
        root = tmp_path / str(processes)
        options = options_with(photographs, root, batch_size_per_gpu=4 // processes)
        options["train"] |= {"total_iter": 6, "optim_g": {"type": "SGD", "lr": 0.05}}
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        results.append(trained(options, root, "--launcher", "pytorch", launcher=launcher))
    for name, tensor in results[0].items():
        torch.testing.assert_close(results[1][name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", [None, torch.channels_last])
def test_ranks_and_batches_share_out_the_same_images(photographs, tmp_path, layout):
    def noisy(world_size, rank, drawn=0):
        block = options_with(photographs, tmp_path)["datasets"]["train"]
        block |= {"phase": "train", "batch_size_per_gpu": 4 // world_size}
        batches = iter(TrainBatches({"train": block}, 7, rank, world_size, drawn, False))
        return [move_batch(next(batches), torch.device("cpu"), layout)["lq"] for _ in range(3)]

    for whole, *shares in zip(noisy(1, 0), noisy(2, 0), noisy(2, 1), strict=True):
        assert torch.equal(whole, torch.cat(shares))
        assert layout is None or whole.is_contiguous(memory_format=layout)
    assert torch.equal(noisy(1, 0, drawn=4)[0], noisy(1, 0)[1])


def test_models_of_basicsr_want_their_noise_with_the_images(photographs, tmp_path):
    options = options_with(photographs, tmp_path) | {"model_type": "SRModel"}
    with pytest.raises(OptionError, match=r"datasets.train.noise_on: SRModel wants images with their noise"):
        build_in_host(options, build=None, build_plugin_model=None)
