from __future__ import annotations

import sys

import torch
from runs import run_tool_to_end, tiny_options, weights, write_options

STEPS = 6


def run(photographs, root, processes: int):
    root.mkdir()
    options = tiny_options(
        photographs,
        root,
        total_iter=STEPS,
        optim_g={"type": "SGD", "lr": 0.05},
        optim_d={"type": "SGD", "lr": 0.05},
        gan_opt={"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1},
        net_d_init_iters=2,
    )
    options |= {"model_type": "GANModel", "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 8}}
    options["datasets"]["train"]["batch_size_per_gpu"] = 4 // processes
    path = write_options(options, root / "a.yml")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    if processes == 1:
        status, output = run_tool_to_end(["-opt", path])
    else:
        status, output = run_tool_to_end(["-opt", path, "--launcher", "pytorch"], launcher=launcher)
    assert status == 0, output
    return [weights(root, file=f"{label}_latest.safetensors") for label in ("net_g", "net_d")]


def test_two_ranks_of_half_the_batch_equal_one_process(photographs, tmp_path):
    single, two = (run(photographs, tmp_path / str(processes), processes) for processes in (1, 2))
    for network, reference in zip(two, single, strict=True):
        for name, tensor in reference.items():
            torch.testing.assert_close(network[name], tensor, rtol=1e-4, atol=1e-5)
