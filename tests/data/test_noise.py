from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats

from d2sm_plugin.data.noise import noise_for_key, random_noise, random_noise_seed, random_sigma, with_seeded_noise


def test_noise_of_a_key_repeats_in_any_order():
    first = {key: noise_for_key(key, 25, (3, 20, 30)) for key in "abcd"}
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    for key in "dbca":
        assert torch.equal(noise_for_key(key, 25, (3, 20, 30)), first[key])
    assert not torch.equal(first["a"], first["b"])


def test_noise_of_a_key_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    noise_for_key("a", 25, (3, 8, 8))
    assert torch.equal(torch.rand(3), expected)


def test_noise_of_a_key_is_pinned():
    """These figures must never change: validation results of all times and machines are compared with one another.

    They would change with every process if the key went through ``hash()``, which Python salts.
    """
    noise = noise_for_key("frankfurt_000000_000294", 25, (3, 512, 512)) * 255 / 25
    assert noise.dtype == torch.float32
    torch.testing.assert_close(noise.flatten()[:4], torch.tensor(PINNED), rtol=1e-5, atol=0)


PINNED = [3.039109, -0.600719, 0.281840, 1.497435]


@pytest.mark.parametrize("sigma", [5, 25, 50, 75])
@pytest.mark.parametrize("draw", ["key", "random", "seed"])
def test_noise_is_normal(draw, sigma):
    shape = (3, 256, 256)
    torch.manual_seed(0)
    if draw == "seed":
        entries = {"gt": torch.zeros(shape), "sigma": torch.full((1, 1, 1), sigma / 255), "noise_seed": torch.tensor(3)}
        noise = with_seeded_noise(entries)["lq"]
    else:
        noise = noise_for_key("some key", sigma, shape) if draw == "key" else random_noise(sigma, shape)
    values = noise.flatten().double().numpy() * 255 / sigma
    error = 1 / np.sqrt(values.size)
    assert abs(values.mean()) < 4 * error
    assert abs(values.std() - 1) < 4 * error
    assert abs(stats.skew(values)) < 4 * np.sqrt(6) * error
    assert abs(stats.kurtosis(values)) < 4 * np.sqrt(24) * error
    assert stats.kstest(values[:20_000], "norm").pvalue > 1e-3
    for shift in ((0, 0, 1), (0, 1, 0), (1, 0, 0)):  # white: no correlation between neighbours or channels
        moved = torch.roll(noise, shift, (0, 1, 2))
        assert abs(float((noise * moved).mean())) * (255 / sigma) ** 2 < 5 * error


def test_noise_levels_share_one_pattern():
    low, high = noise_for_key("a", 10, (1, 9, 9)), noise_for_key("a", 50, (1, 9, 9))
    torch.testing.assert_close(5 * low, high)
    assert not noise_for_key("a", 0, (1, 9, 9)).any()


def test_noise_of_different_keys_is_independent():
    noises = torch.stack([noise_for_key(f"image_{number}", 255, (64, 64)).flatten() for number in range(20)])
    correlation = torch.corrcoef(noises) - torch.eye(20)
    assert correlation.abs().max() < 5 / 64


def test_random_sigma_is_uniform():
    torch.manual_seed(0)
    values = np.array([random_sigma(0, 75) for _ in range(4000)])
    assert stats.kstest(values / 75, "uniform").pvalue > 1e-3
    assert random_sigma(30, 30) == 30


def seeded_batch(seeds, size=(3, 12, 20)):
    torch.manual_seed(0)
    sigmas = torch.linspace(0, 0.3, len(seeds)).view(-1, 1, 1, 1)
    return {"gt": torch.rand(len(seeds), *size), "sigma": sigmas, "noise_seed": torch.tensor(seeds), "key": ["a"]}


def test_noise_of_a_seed_is_torchs_and_that_of_an_image_alone():
    """Neither neighbours in the batch nor the global generators matter; nor are the latter touched."""
    seeds = [5, 2**62 + 1, 5, 7]
    batch = seeded_batch(seeds)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    noisy = with_seeded_noise(batch)
    assert torch.equal(torch.rand(3), expected)
    assert noisy.keys() == {"gt", "sigma", "key", "lq"} and "noise_seed" in batch
    assert torch.equal(noisy["gt"], batch["gt"]) and torch.equal(noisy["lq"][0], batch["gt"][0])  # of level 0
    for number, seed in enumerate(seeds):
        pattern = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(noisy["lq"][number], batch["gt"][number] + batch["sigma"][number] * pattern)
        alone = {key: batch[key][number] for key in ("gt", "sigma", "noise_seed")}
        assert torch.equal(with_seeded_noise(alone)["lq"], noisy["lq"][number])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_of_a_seed_repeats_on_a_gpu():
    batch = seeded_batch([5, 2**62 + 1, 7], (3, 128, 128))
    moved = {key: value.cuda() for key, value in batch.items() if key in ("gt", "sigma")}
    noisy, again = (with_seeded_noise({**moved, "noise_seed": batch["noise_seed"]})["lq"] for _ in range(2))
    assert noisy.is_cuda and torch.equal(noisy, again)
    alone = {key: value[1] for key, value in moved.items()} | {"noise_seed": batch["noise_seed"][1]}
    assert torch.equal(with_seeded_noise(alone)["lq"], noisy[1])
    pattern = ((noisy - moved["gt"]) / moved["sigma"])[1:].double()
    assert abs(pattern.mean()) < 4 / pattern.numel() ** 0.5 and abs(pattern.std() - 1) < 4 / pattern.numel() ** 0.5


def test_without_a_seed_entries_stay_as_they_are():
    entries = {"lq": torch.rand(3, 4, 4), "key": "a"}
    assert with_seeded_noise(entries) == entries


def test_seeds_of_noise_hardly_meet():
    torch.manual_seed(0)
    seeds = torch.stack([random_noise_seed() for _ in range(1000)])
    assert seeds.dtype == torch.int64 and seeds.min() >= 0 and len(set(seeds.tolist())) == 1000
    assert len({seed % 2**32 for seed in seeds.tolist()}) == 1000  # the part that the CPU's generator takes
