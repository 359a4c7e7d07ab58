"""The plan of a step's memory against the same step's allocations."""

from __future__ import annotations

import pytest
import torch

from d2sm_plugin.studies.benchmark.benchmark import main
from d2sm_plugin.studies.benchmark.memory_plan import MemoryCount, allocated_peak, largest, planned_peak
from d2sm_plugin.studies.benchmark.paper import TINY, measured, plan, variants

MIB = 2**18  # float32 values


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_is_counted_while_it_is_held(device):
    held = torch.zeros(MIB, device=device)
    with MemoryCount([held, held[1:]]) as count:
        other = held + 1
        view = other[: MIB // 2]
        del other
        assert count.bytes == 2 * 2**20
        del view
        assert count.bytes == 2**20
    assert count.peak == 2 * 2**20


def test_what_autograd_keeps_is_counted():
    def step(device):
        value = torch.ones(MIB, device=device, requires_grad=True)
        (value.exp().exp().exp() * 2).sum().backward()

    # The leaf and three results of exp, and at the end of the way back two gradients on the way to the next one.
    assert planned_peak(lambda: step("meta"), []) == pytest.approx(allocated_peak(lambda: step("cpu")), rel=0.02)


@pytest.mark.parametrize("name", variants(TINY))
def test_the_plan_is_within_15_percent_of_the_allocations(name):
    assert plan(TINY, name, 3) == pytest.approx(measured(TINY, name, 3), rel=0.15)


def test_largest_batch():
    assert [largest(lambda number, most=most: number <= most) for most in (0, 1, 2, 3, 7, 8, 1000)] == [
        0, 1, 2, 3, 7, 8, 1000,
    ]  # fmt: skip
    assert largest(lambda number: True, most=10) == 10


@pytest.mark.slow
def test_charts(tmp_path):
    assert main(["--charts", str(tmp_path / "new"), "--tiny", "--repeats", "1"]) == 0
    assert all((tmp_path / "new" / f"speed_{name}.png").stat().st_size > 5000 for name in ("queue", "memory"))


def test_the_small_table(capsys):
    assert main(["paper", "--tiny", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 and "shared, exact, bf16 late" in lines[4]
    assert main(["paper", "--tiny", "--plan"]) == 0
    assert capsys.readouterr().out.count("not measured") == 4
