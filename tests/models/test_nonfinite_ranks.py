"""What is not finite on one rank alone leaves the step out on every rank, and their weights stay equal."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

import d2sm_plugin  # noqa: F401
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.registry import ARCH_REGISTRY, LOSS_REGISTRY

STEPS, BAD = 4, 2
CASES = [(kind, accumulate) for kind in ("gradient", "loss") for accumulate in (1, 2)]


@ARCH_REGISTRY.register()
class OneNorm(nn.Module):
    """A network with running means."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)

    def forward(self, lq):
        return self.last(self.norm(self.first(lq)).relu())


@LOSS_REGISTRY.register()
class BadOnOneRank(nn.Module):
    """Zero; on rank 1, in one step, NaN or with a gradient of NaN, as the square root has at 0."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.step = kind, 0

    def forward(self, restored, gt):
        self.step += 1
        nothing = 0 * restored.sum()
        if self.step != BAD or dist.get_rank() == 0:
            return nothing
        return nothing.sqrt() if self.kind == "gradient" else nothing * float("nan")


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save({case: train(rank, *case) for case in CASES}, f"{folder}/{rank}")
    dist.destroy_process_group()


def train(rank, kind, accumulate):
    raw = {
        "name": "x",
        "num_gpu": 0,
        "datasets": {"train": {"type": "NoisyImageDataset", "dataroot_gt": "images", "sigma": 25}},
        "network_g": {"type": "OneNorm"},
        "train": {
            "total_iter": STEPS,
            "optim_g": {"type": "Adam", "lr": 0.1},
            "ema_decay": 0.5,
            "pixel_opt": {"type": "L1Loss"},
            "bad_opt": {"type": "BadOnOneRank", "kind": kind},
        },
    }
    torch.manual_seed(0)
    model = D2SMModel(validate_options(raw) | {"dist": True, "rank": rank, "world_size": 2})
    made, states = [], []
    for step in range(1, STEPS + 1):
        generator = torch.Generator().manual_seed(10 * step + rank)
        group = [torch.rand(2, 2, 3, 8, 8, generator=generator) for _ in range(accumulate)]
        made.append(model.train_step([{"lq": lq, "gt": gt, "key": ["a", "b"]} for lq, gt in group], step))
        states.append({f"{key}.{name}": tensor.clone() for key, net in model.networks()["net_g"].items()
                       for name, tensor in net.state_dict().items()})  # fmt: skip
    return {"made": made, "states": states, "moments": model.optimizers[0].state_dict()["state"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both ranks' results of every case: two processes that import torch serve all of them."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, (folder,), nprocs=2)
    return [torch.load(folder / str(rank), weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize(("kind", "accumulate"), CASES)
def test_the_step_is_left_out_on_both(trained, kind, accumulate):
    ranks = [results[kind, accumulate] for results in trained]
    # With two mini-batches a step, the loss's second call is in the first step.
    bad = (BAD - 1) // accumulate
    for rank in ranks:
        assert rank["made"] == [step != bad for step in range(STEPS)]
        assert all(tensor.isfinite().all() for state in rank["states"] for tensor in state.values())
        before, after = rank["states"][bad - 1], rank["states"][bad]
        if bad:
            assert all(torch.equal(before[name], after[name]) for name in after)
    learnt = [name for name in ranks[0]["states"][0] if "norm.running" not in name]
    assert len(learnt) > 10
    for first, second in zip(*(rank["states"] for rank in ranks), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in learnt)
    for index, moments in ranks[0]["moments"].items():
        assert all(torch.equal(value, ranks[1]["moments"][index][name]) for name, value in moments.items())
        assert moments["step"] == STEPS - 1
