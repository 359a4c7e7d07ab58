from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.features import build_extractor
from d2sm_plugin.losses import PatchSampler, QueueSampler, semantic_divergence
from d2sm_plugin.statistics.formula import PrintedQueue, printed_divergence
from d2sm_plugin.studies.benchmark.benchmark import main, table_rows
from d2sm_plugin.studies.benchmark.cases import NAMES, build_case
from d2sm_plugin.studies.benchmark.frontier import EXTRACTOR, plot_frontier
from d2sm_plugin.studies.benchmark.measure import Case, Settings, count_flops, ratios, run_case, timed
from d2sm_plugin.studies.benchmark.memory import peak_memory
from d2sm_plugin.studies.benchmark.processes import prepare_processes

_LONG = ("segmentation", "precision", "compile", "patches", "scaling", "scaling_large")
CPU = Settings(torch.device("cpu"), 2, True)


def test_the_reference_computes_the_same_divergence():
    torch.manual_seed(0)
    clear = torch.rand(12, 6, dtype=torch.float64)
    restored = (clear + 0.3 * torch.rand(12, 6, dtype=torch.float64)).requires_grad_()
    values = printed_divergence(restored, clear), semantic_divergence(restored, clear)
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(value, restored)[0] for value in values))
    printed, queue = PrintedQueue(restored, clear), QueueSampler(12)
    queue(restored, clear)
    batch = (clear[:4] + 0.1 * torch.rand(4, 6, dtype=torch.float64)).requires_grad_(), clear[:4].flip(0)
    assert printed(*batch).item() == pytest.approx(queue(*batch).item(), rel=1e-10)


def test_operations_are_counted_and_variants_take_turns():
    order = []
    case = Case("x", "a", {name: lambda name=name: lambda: order.append(name) for name in "ab"})
    timings = run_case(case, CPU)
    assert order == ["a", "b"] + ["a", "b"] * 2
    assert ratios(timings, "a", "wall")["a"] == 1
    assert count_flops(lambda: torch.rand(3, 4) @ torch.rand(4, 5)) == 2 * 3 * 4 * 5


def test_operations_of_a_queue_are_counted():
    torch.manual_seed(0)
    queue, batch = QueueSampler(24), (torch.rand(4, 50, requires_grad=True), torch.rand(4, 50))
    for _ in range(6):
        queue(*batch)
    value = 3 * 24 * (4 + 4)  # products of all with those that come and go
    assert count_flops(lambda: queue(*batch)) == 2 * 50 * (value + 24 * 4 + 4) + 2 * 4 * 24 * (
        8 + 4
    )  # gradient, its projection, and sums


def test_operations_of_shared_windows_are_counted():
    extractor = build_extractor({**EXTRACTOR, "weights": None}, "test").to(memory_format=torch.channels_last)
    sampler = PatchSampler(56, 8, mode="shared", max_patches=2)
    assert count_flops(lambda: sampler(extractor, torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))) > 1e7


def test_rows_of_a_case():
    case = Case("title", "slow", {"slow": lambda: lambda: sum(range(20_000)), "fast": lambda: lambda: sum(range(9))})
    rows = table_rows("name", case, run_case(case, CPU), CPU, None)
    assert rows[0][:2] == ["`name` title", "slow"] and rows[0][5] == "1" and rows[1][5].startswith("1/")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in _LONG])
def test_small_cases_run(name):
    case = build_case(name, CPU)
    assert case.reference in case.variants
    for prepare in case.variants.values():
        prepare()()


def test_processes_work_together_and_say_what_they_spent():
    step = prepare_processes(2, "cpu", rows=3, dimension=5, queue=12)
    assert all(0 < part < 60 for _ in range(2) for part in timed(step, CPU.device))
    case = build_case("scaling", CPU)
    assert case.reference in case.variants and not case.in_this_process


def test_a_full_queue_is_ready_for_the_next_step():
    from d2sm_plugin.studies.benchmark.cases.loss import full_queue_step

    step = full_queue_step(64, CPU)()
    step()
    step()


@pytest.mark.slow
def test_memory_of_a_variant():
    assert 0 < peak_memory("loss", "queue", CPU, 1) < 2000


def test_plot(tmp_path):
    rows = [
        ("crop", 1.0, 0.5, 1.0),
        ("shared at 4, padded, late bf16", 7.0, 3.0, 0.98),
        ("shared at 4, open", 6, 3, 0.9),
        ("shared at 8, padded, 2 cells", 7, 3.5, 0.99),
    ]
    plot_frontier(rows, tmp_path / "new" / "plot.png", "network")
    assert (tmp_path / "new" / "plot.png").stat().st_size > 5000


def test_frontier_needs_large_images_and_an_extractor(tmp_path):
    image = tmp_path / "small.png"
    assert cv2.imwrite(str(image), np.zeros((512, 500, 3), np.uint8))
    block = "{type: TimmFeatures, model: resnet18, weights: null}"
    with pytest.raises(ShapeError, match=r"small\.png: 512x500 pixels; the measurement takes 512x512"):
        main(["--frontier", str(image), "--extractor", block])
    with pytest.raises(OptionError, match="--extractor: expected an option block"):
        main(["--frontier", str(image), "--extractor", "vgg"])


def test_unknown_case():
    with pytest.raises(OptionError, match="benchmark: no case 'los'; did you mean 'loss'"):
        main(["los"])
