"""Operations of a step: on a GPU each of them is a launch, and small steps take as long as they have launches."""

from __future__ import annotations

import pytest
import torch

from d2sm_plugin.losses import QueueSampler
from d2sm_plugin.studies.benchmark.launches import LaunchCount, launch_counts, queue_launches


def test_operations_are_counted():
    matrix = torch.empty(4, 3, device="meta", requires_grad=True)
    with LaunchCount() as count:
        matrix.T[1:].exp().sum().backward()  # views are free
        torch.rand(3) + 1  # in main memory
    assert count.operations["exp"] == 1 and count.operations["sum"] == 1
    # exp, sum and its seed; the gradients of exp and of the slice; a copy of that in the layout of the matrix
    assert count.launches == 6
    with LaunchCount() as count:
        torch.empty(4, device="meta").zero_().add_(1)
    assert dict(count.operations) == {"zero_": 1, "add_": 1}


def test_a_number_in_main_memory_is_a_copy_to_the_device():
    values, number = torch.empty(4, device="meta"), torch.zeros(())
    with LaunchCount() as count:
        torch.where(values > 0, values, number)
        values.copy_(number)
    assert dict(count.operations) == {"gt": 1, "where": 1, "copy from main memory": 1, "copy_": 1}


def test_steps_have_few_launches():
    counts = launch_counts()
    assert counts == {
        "queue of 256, 32 new samples": 41,
        "queue of 4,096, 32 new samples": 41,
        "the same with bfloat16 storage": 51,
        "256 samples, no queue": pytest.approx(47, abs=2),
        "64 positions of each of 4 maps": pytest.approx(54, abs=4),
    }


def test_launches_do_not_grow_with_the_queue_or_the_batch():
    assert queue_launches(QueueSampler(512), new=8) == queue_launches(QueueSampler(2048), new=64) == 41


def test_a_batch_around_the_end_of_the_memory_takes_few_more():
    queue = QueueSampler(100)
    most = 0
    for _ in range(12):
        pair = torch.empty(32, 64, device="meta", requires_grad=True), torch.empty(32, 64, device="meta")
        with LaunchCount() as count:
            queue(*pair).backward()
        most = max(most, count.launches)
    assert most <= 60
