"""A whole training on a GPU: checkpoints, validation, continuing, and the network it ends with against the CPU's."""

from __future__ import annotations

import pytest
import torch
from runs import run_tool_to_end, tiny_options, weights, write_options

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

D2SM = {
    "type": "D2SMLoss",
    "loss_weight": {"relative": 1, "steps": 2},
    "extractor": {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": None, "stride": 16},
    "patches": {"type": "SpatialSampler", "max_positions": 4},
    "queue": {"type": "QueueSampler", "size": 16},
}


def trained(photographs, root, num_gpu, *arguments, **train):
    root.mkdir(exist_ok=True)
    options = tiny_options(photographs, root, d2sm_opt=D2SM, ema_decay=0.9, **train) | {"num_gpu": num_gpu}
    options["datasets"]["train"]["gt_size"] = 64
    status, output = run_tool_to_end(["-opt", write_options(options, root / "a.yml"), *arguments])
    assert status == 0, output
    return weights(root)


def test_it_ends_where_the_cpu_ends_and_can_be_continued(photographs, tmp_path):
    on_cpu = trained(photographs, tmp_path / "cpu", 0)
    on_gpu = trained(photographs, tmp_path / "gpu", 1)
    trained(photographs, tmp_path / "parts", 1, total_iter=4)
    in_parts = trained(photographs, tmp_path / "parts", 1, "--auto_resume")
    for name, tensor in on_cpu.items():
        torch.testing.assert_close(on_gpu[name], tensor, rtol=0, atol=2e-3)
        torch.testing.assert_close(in_parts[name], tensor, rtol=0, atol=2e-3)
