from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from d2sm_reference import NaiveQueue, dense_divergence, pair, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

from d2sm_plugin.losses import QueueSampler


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_tensor_of_all_pairs_is_made():
    size, count, dimension = 1024, 8, 16
    queue = QueueSampler(size)
    for _ in range(3):
        queue(*pair(500, dimension, dtype=torch.float32))
    with LargestTensor() as largest:
        restored, clear = pair(count, dimension, dtype=torch.float32)
        queue(restored, clear).backward()
    assert largest.numel <= 5 * 2 * count * size  # five terms of the pairs with the new and the leaving samples
    assert largest.numel < size * size / 10


def test_working_memory_of_large_batches_is_bounded(monkeypatch):
    restored, clear = pair(60, 6)
    whole = QueueSampler(200)
    whole(*pair(190, 6))
    cut = copy.deepcopy(whole)
    expected = whole(restored, clear)
    (expected_gradient,) = torch.autograd.grad(expected, restored)
    monkeypatch.setattr("d2sm_plugin.statistics.row_divergence._PAIRS_AT_ONCE", 500)
    with LargestTensor() as largest:
        value = cut(restored, clear)
        (gradient,) = torch.autograd.grad(value, restored)
    assert largest.numel <= 5 * 500
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, expected_gradient)
    assert relative_error(cut.sums, whole.sums) < 1e-13


def drift(size, count, dimension, steps, relative, loss_error, gradient_error):
    """Errors in float32 against the dense computation in float64 after many steps, at its last few."""
    queue = QueueSampler(size)
    history = []
    for step in range(steps):
        restored, clear = pair(count, dimension, relative, torch.float32)
        if step < steps - 3:
            queue(restored.detach(), clear)
            history = [*history, (restored.detach(), clear)][-(size // count + 1) :]
            continue
        value = queue(restored, clear)
        (gradient,) = torch.autograd.grad(value, restored)
        history = [*history, (restored.detach(), clear)][-(size // count + 1) :]
        all_restored, all_clear = (torch.cat(parts)[-size:].double() for parts in zip(*history, strict=True))
        all_restored.requires_grad_()
        expected = dense_divergence(all_restored, all_clear)
        (expected_gradient,) = torch.autograd.grad(expected, all_restored)
        assert abs(value.item() / expected.item() - 1) < loss_error
        assert relative_error(gradient, expected_gradient[-count:]) < gradient_error


@pytest.mark.parametrize(("relative", "steps"), [(0.01, 10_000), (1.0, 1_000)])
def test_ten_thousand_steps_do_not_drift(relative, steps):
    drift(16, 3, 8, steps, relative, 1e-5, 1e-5)


@pytest.mark.parametrize("relative", [0.01, 0.1, 1.0])
def test_accuracy_in_float32(relative):
    drift(256, 32, 4096, 12, relative, 1e-5, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("relative", [0.01, 1.0])
def test_accuracy_in_float32_after_hundreds_of_steps(relative):
    drift(256, 32, 4096, 300, relative, 1e-5, 1e-5)


def test_training_that_gets_closer_keeps_its_accuracy():
    """Old samples far away from equality leave, and take their large terms with them."""
    queue, naive = QueueSampler(24), NaiveQueue(24)
    for step in range(60):
        relative = 1.0 if step < 30 else 0.01
        restored, clear = pair(4, 32, relative, torch.float32)
        value, expected = queue(restored, clear), naive(restored, clear)
        gradient, wanted = (torch.autograd.grad(part, restored)[0] for part in (value, expected))
    assert abs(value.item() / expected.item() - 1) < 1e-4
    assert relative_error(gradient, wanted) < 1e-3


def test_a_step_never_waits_for_the_device(monkeypatch):
    """Tensors on the device "meta" have no values: whatever asks for one raises."""
    monkeypatch.setattr("d2sm_plugin.losses.queue_sampler.full_precision", nullcontext)  # it has no autocast
    queue = QueueSampler(10)
    for count in (4, 4, 4, 3, 4):
        restored = torch.rand(count, 6, device="meta", requires_grad=True)
        queue(restored, torch.rand(count, 6, device="meta")).backward()
        assert restored.grad.shape == (count, 6)
    assert len(queue) == 10 and queue.clear.is_meta
