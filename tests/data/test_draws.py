from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.draws import Draw, DrawSampler, SeededDraws
from d2sm_plugin.errors import OptionError


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"index": index, "values": [random.random(), float(np.random.rand()), float(torch.rand(()))]}


def joint(world_size, batch_size, batches, **kwargs):
    shares = [
        list(islice(DrawSampler(5, batch_size, 3, rank=rank, world_size=world_size, **kwargs), batches))
        for rank in range(world_size)
    ]
    return [draw for step in zip(*shares, strict=True) for share in step for draw in share]


def test_every_epoch_holds_every_sample_once():
    draws = joint(1, 2, 10)
    for epoch in range(4):
        assert sorted(draw.index for draw in draws[epoch * 5 : epoch * 5 + 5]) == list(range(5))
    assert [d.index for d in draws[:5]] != [d.index for d in draws[5:10]]


def test_enlarged_epochs():
    draws = joint(1, 5, 3, enlarge_ratio=3)
    assert sorted(draw.index for draw in draws) == sorted(list(range(5)) * 3)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_same_joint_batches(world_size):
    assert joint(world_size, 4 // world_size, 6) == joint(1, 4, 6)


def test_a_continued_stream_is_the_same_stream():
    assert joint(1, 2, 10)[6:] == joint(1, 2, 7, start=6)


def test_a_draw_depends_on_seed_and_position_alone():
    seeded = SeededDraws(Noise(), seed=1)
    first = seeded[Draw(4, 0)]
    torch.rand(3), random.random(), np.random.rand()
    assert seeded[Draw(4, 0)] == first
    assert seeded[Draw(5, 0)] != first
    assert SeededDraws(Noise(), seed=2)[Draw(4, 0)] != first
    assert len(set(first["values"])) == 3


def test_a_draw_leaves_the_global_generators_alone():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    SeededDraws(Noise(), seed=1)[Draw(0, 0)]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_an_empty_dataset_is_refused():
    with pytest.raises(OptionError, match="dataset is empty"):
        DrawSampler(0, 1, 0)
