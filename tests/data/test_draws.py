from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch

import d2sm_plugin  # noqa: F401
from d2sm_plugin.data.draw_order import DrawOrder
from d2sm_plugin.data.draws import Draw, DrawSampler, SeededDraws
from d2sm_plugin.data.joined_datasets import JoinedDatasets
from d2sm_plugin.errors import DataError, OptionError


class Noise(torch.utils.data.Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"index": index, "values": [random.random(), float(np.random.rand()), float(torch.rand(()))]}


def joint(world_size, batch_size, batches, start=0, order=None):
    shares = [
        list(islice(DrawSampler(order or DrawOrder([5], 3), batch_size, rank, world_size, start), batches))
        for rank in range(world_size)
    ]
    return [draw for step in zip(*shares, strict=True) for share in step for draw in share]


def test_every_epoch_holds_every_sample_once():
    draws = joint(1, 2, 10)
    for epoch in range(4):
        assert sorted(draw.sample for draw in draws[epoch * 5 : epoch * 5 + 5]) == list(range(5))
    assert [d.sample for d in draws[:5]] != [d.sample for d in draws[5:10]]


def test_enlarged_epochs():
    draws = joint(1, 5, 3, order=DrawOrder([5], 0, [3]))
    assert sorted(draw.sample for draw in draws) == sorted(list(range(5)) * 3)


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
        DrawOrder([0], 0)


def indices(order, epochs):
    length = order.epoch_length
    return [[order.sample(epoch * length + offset) for offset in range(length)] for epoch in range(epochs)]


def test_several_sets_are_drawn_as_one():
    order = DrawOrder([3, 4], 0, [2, 1], names=("a", "b"))
    for drawn in indices(order, 3):
        assert sorted(drawn) == sorted([0, 1, 2] * 2 + [3, 4, 5, 6])
    assert indices(order, 2)[0] != indices(order, 2)[1]
    assert indices(DrawOrder([7], 5), 2) == indices(DrawOrder([7], 5), 2) != indices(DrawOrder([7], 6), 2)


def test_ratios_share_out_every_epoch_exactly():
    order = DrawOrder([90, 10], 1, ratios=[1, 3], names=("a", "b"))
    epochs = indices(order, 8)
    for drawn in epochs:
        assert [sum(index < 90 for index in drawn), sum(index >= 90 for index in drawn)] == [25, 75]
    for first, count in ((0, 90), (90, 10)):  # no sample comes twice before every one of its set has come once
        times = [sum(drawn.count(index) for drawn in epochs) for index in range(first, first + count)]
        assert max(times) - min(times) <= 1
    third = DrawOrder([10, 10, 10], 0, ratios=[1, 1, 1.0], names=("a", "b", "c"))
    assert [sum(index // 10 == part for index in indices(third, 1)[0]) for part in range(3)] == [10, 10, 10]


def test_an_order_may_be_entered_anywhere():
    def order():
        return DrawOrder([9, 4, 3], 2, [1, 2, 1], [1, 2, 0.5], ("a", "b", "c"))

    whole = [order().sample(position) for position in range(60)]
    late = order()
    assert [late.sample(position) for position in range(37, 60)] == whole[37:]
    assert joint(2, 2, 6, order=order()) == joint(1, 4, 6, order=order())


def test_a_share_of_nothing_is_refused():
    with pytest.raises(OptionError, match=r"b\.ratio: of 8 draws of an epoch it would get none"):
        DrawOrder([4, 4], 0, ratios=[100, 1], names=("a", "b"))


class Entries(torch.utils.data.Dataset):
    def __init__(self, length, **entries):
        self.length, self.entries = length, entries

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return {"index": index, "noise": torch.rand(()).item(), **self.entries}


def test_joined_sets_give_what_all_of_them_give():
    joined = JoinedDatasets({"train": Entries(3, sigma=1.0), "train_2": Entries(2, path="x")})
    assert len(joined) == 5
    assert [set(joined[index]) for index in range(5)] == [{"index", "noise"}] * 5
    assert [joined[index]["index"] for index in range(5)] == [0, 1, 2, 0, 1]


def test_looking_for_common_entries_changes_no_draw():
    def joined():
        return SeededDraws(JoinedDatasets({"a": Entries(3, sigma=1.0), "b": Entries(2)}), seed=4)

    warm = joined()
    warm[Draw(0, 0)]
    assert joined()[Draw(7, 3)] == warm[Draw(7, 3)]


def test_sets_without_a_common_entry_are_refused():
    class Bare(Entries):
        def __getitem__(self, index):
            return dict(self.entries)

    with pytest.raises(DataError, match=r"no entry in common \(a gives x; b gives y\)"):
        JoinedDatasets({"a": Bare(1, x=1), "b": Bare(1, y=1)})[0]
    colour, grey = (Bare(1, gt=torch.zeros(channels, 8, 8)) for channels in (3, 1))
    with pytest.raises(DataError, match=r"the channels of 'gt' differ \(3 in a, 1 in b\)"):
        JoinedDatasets({"a": colour, "b": grey})[0]


def test_noise_on_the_device_in_some_sets_alone_is_refused():
    seeded = Entries(2, noise_seed=torch.tensor(1))
    assert "noise_seed" in JoinedDatasets({"train": seeded, "train_2": seeded})[0]
    with pytest.raises(OptionError, match=r"datasets.train_2.noise_on: .*datasets.train gives images with their noise"):
        JoinedDatasets({"train": Entries(2), "train_2": seeded})[0]
