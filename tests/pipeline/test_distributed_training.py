from __future__ import annotations

import csv
import sys

import torch
from runs import run_tool_to_end, tiny_options, weights, write_options
from test_training_run import D2SM

STEPS = 6


def run(photographs, root, processes: int):
    relative = {"loss_weight": {"relative": 0.5, "steps": 3}}
    objectives = {
        "d2sm_opt": D2SM,
        "weighed_d2sm_opt": {**D2SM, **relative},
        "weighed_opt": {"type": "MSELoss", "reduction": "sum", **relative},
    }
    options = tiny_options(photographs, root, total_iter=STEPS, optim_g={"type": "SGD", "lr": 0.05}, **objectives)
    options["datasets"]["train"]["batch_size_per_gpu"] = 4 // processes
    options["logger"] |= {"save_checkpoint_freq": 3, "print_freq": 1}
    path = write_options(options, root / "a.yml")
    if processes == 1:
        status, output = run_tool_to_end(["-opt", path])
    else:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        status, output = run_tool_to_end(["-opt", path, "--launcher", "pytorch"], launcher=launcher)
    assert status == 0, output
    state = torch.load(root / "experiments" / "tiny" / "training_states" / f"{STEPS}.state", weights_only=True)
    with (root / "experiments" / "tiny" / "metrics.csv").open() as file:
        return weights(root), state, list(csv.DictReader(file)), output


def test_two_ranks_of_half_the_batch_equal_one_process(photographs, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    single, one_state, one_metrics, one_output = run(photographs, tmp_path / "one", 1)
    two, two_state, two_metrics, two_output = run(photographs, tmp_path / "two", 2)
    for name, tensor in single.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    for name, tensor in one_state["objectives"].items():
        torch.testing.assert_close(two_state["objectives"][name], tensor, rtol=1e-3, atol=1e-5)
    assert one_state["drawn"] == two_state["drawn"] == STEPS * 4
    assert len(two_state["random"]) == 2
    assert [row["images"] for row in two_metrics] == ["6"]
    assert abs(float(one_metrics[0]["value"]) - float(two_metrics[0]["value"])) < 1e-3
    for name in ("l_d2sm", "weight/weighed_d2sm", "weight/weighed"):
        values = logged(one_output, name)
        assert len(values) == STEPS
        for value, other in zip(values, logged(two_output, name), strict=True):
            assert abs(value - other) <= 2e-3 * abs(value) + 1e-7


def logged(output: str, name: str) -> list[float]:
    return [float(line.split(f"{name}: ")[1].split()[0]) for line in output.splitlines() if f"{name}: " in line]


def test_a_pytorch_launcher_needs_torchrun(photographs, tmp_path):
    path = write_options(tiny_options(photographs, tmp_path), tmp_path / "a.yml")
    status, output = run_tool_to_end(["-opt", path, "--launcher", "pytorch"])
    assert status == 2
    assert "start with torchrun" in output
