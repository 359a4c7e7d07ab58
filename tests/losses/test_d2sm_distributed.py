from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from d2sm_reference import TinyExtractor, pair
from torch import nn

from d2sm_plugin.errors import ShapeError
from d2sm_plugin.losses import D2SMLoss, QueueSampler
from d2sm_plugin.losses.gather import Share, mean_over_processes

STEPS = 4
CASES = {
    "whole images": {},
    "queue": {"queue": {"type": "QueueSampler", "size": 7}},
    "windows and queue": {
        "queue": {"type": "QueueSampler", "size": 30},
        "patches": {"type": "PatchSampler", "size": 8, "stride": 4, "max_patches": 5},
    },
    "shared windows in chunks and queue": {
        "queue": {"type": "QueueSampler", "size": 36},
        "patches": {
            "type": "PatchSampler",
            "size": 8,
            "stride": 4,
            "mode": "shared",
            "shared_stride": 2,
            "max_patches_per_chunk": 3,
        },
    },
    "both directions, no queue": {"divergence": "js", "patches": {"type": "SpatialSampler", "max_positions": 5}},
    "mixture and queue": {"divergence": "js_mixture", "queue": 7},
    "more samples than the queue holds": {"queue": 6, "patches": {"type": "SpatialSampler", "max_positions": 3}},
    "windows of one image": {
        "patches": {"type": "PatchSampler", "size": 8, "stride": 4, "scope": "image"},
        "reduction": "mean",
    },
}


def batches():
    generator = torch.Generator().manual_seed(5)
    clear = torch.rand(STEPS, 4, 3, 16, 16, generator=generator, dtype=torch.float64)
    return clear, (clear + 0.1 * torch.randn(clear.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def train(network, options, share):
    """A few steps; what they saw and did."""
    loss = D2SMLoss(TinyExtractor().double(), **options)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    values, gradients = [], []
    for clear, noisy in zip(*batches(), strict=True):
        optimiser.zero_grad()
        value = loss(network(noisy[share]), clear[share])
        value.backward()
        values.append(value.item())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
        optimiser.step()
    return {"values": values, "gradients": gradients, "state": loss.state_dict()}


def network():
    torch.manual_seed(1)
    return nn.Conv2d(3, 3, 3, padding=1).double()


def run_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    share = slice(2 * rank, 2 * rank + 2)
    actual = {
        name: train(nn.parallel.DistributedDataParallel(network()), options, share) for name, options in CASES.items()
    }
    torch.save(actual, f"{folder}/rank{rank}.pth")
    check_bytes()
    check_shared_work(rank)
    check_unequal_batches(rank)
    assert mean_over_processes(torch.tensor(2 + 3 * rank)).item() == 3.5
    dist.destroy_process_group()


def check_bytes():
    """A step sends this process's features and the sums of all rows, and nothing on the way back."""
    sent = []
    originals = dist.all_reduce, dist.all_gather
    dist.all_reduce = lambda tensor: sent.append(tensor.numel() * tensor.element_size()) or originals[0](tensor)
    dist.all_gather = lambda parts, rows: sent.append(rows.numel() * rows.element_size()) or originals[1](parts, rows)
    loss = D2SMLoss(TinyExtractor(), queue=20)
    for step in range(7):
        images = torch.rand(2, 3, 16, 16, requires_grad=True)
        loss(images, torch.rand(2, 3, 16, 16)).backward()
        counts = [8] if step == 0 else []  # that all hold equally many, once
        assert sent == [*counts, 2 * 6 * 4, 2 * 6 * 4, 4 * 8 * min(20, 4 * (step + 1))], sent
        sent.clear()
    dist.all_reduce, dist.all_gather = originals


def check_shared_work(rank):
    """Each process compares its own rows and sends 4 x q sums; values, gradients and the queue are those of one."""
    sent = []
    original = dist.all_reduce
    for kind in ("kl", "reverse_kl", "js"):
        shared, alone = QueueSampler(20), QueueSampler(20)
        torch.manual_seed(7)
        for count in (4, 6, 8, 6, 4, 20, 24, 2):
            restored, clear = pair(count, 5)
            share = Share(rank, 2, (rank * count // 2, (rank + 1) * count // 2))
            expected = alone(restored, clear, kind, "mean")
            dist.all_reduce = lambda tensor: sent.append(tensor.numel() * tensor.element_size()) or original(tensor)
            value = shared(restored, clear, kind, "mean", share)
            dist.all_reduce = original
            assert sent.pop() == 4 * 8 * len(shared) and not sent
            assert value.item() == pytest.approx(expected.item(), rel=1e-12)
            gradient, wanted = (torch.autograd.grad(part, restored)[0] for part in (value, expected))
            rows = slice(*share.rows)
            torch.testing.assert_close(gradient[rows], wanted[rows], rtol=1e-11, atol=1e-15)
            assert torch.count_nonzero(gradient) == torch.count_nonzero(gradient[rows])
            torch.testing.assert_close(shared.sums, alone.sums, rtol=1e-11, atol=1e-15)
            assert torch.equal(shared.restored, alone.restored)
            values = [torch.empty_like(shared.sums) for _ in range(2)]
            dist.all_gather(values, shared.sums.contiguous())
            assert torch.equal(*values)


def check_unequal_batches(rank):
    images = torch.rand(2 + rank, 3, 16, 16)
    with pytest.raises(ShapeError, match=r"batches of different size \(2, 3 samples by rank\); give every process"):
        D2SMLoss(TinyExtractor())(images, images)
    value = D2SMLoss(TinyExtractor()).eval()(images, images)  # every process evaluates on its own
    assert value.item() == 0


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.spawn(run_rank, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in range(2)]
    for name, options in CASES.items():
        single = train(network(), options, slice(None))
        for actual in (rank[name] for rank in ranks):
            assert actual["values"] == pytest.approx(single["values"], rel=1e-10)
            torch.testing.assert_close(actual["gradients"], single["gradients"], rtol=1e-9, atol=1e-13)
            assert actual["state"].keys() == single["state"].keys()
            for key, value in single["state"].items():
                torch.testing.assert_close(actual["state"][key], value, rtol=1e-9, atol=1e-12)
