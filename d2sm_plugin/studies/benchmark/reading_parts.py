"""``python -m d2sm_plugin.studies.benchmark.reading_parts``: rate of reading crops, and its part in a training."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from tabulate import tabulate

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.arguments import Parser, device, whole
from d2sm_plugin.cli import run_tool
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.pipeline.loaders import TrainBatches
from d2sm_plugin.studies.benchmark.cases import build_case
from d2sm_plugin.studies.benchmark.cases.reading import CROPS, sides, stored_scenes
from d2sm_plugin.studies.benchmark.measure import Settings, ratios, run_case, synchronise

PARTS = ("waiting for the batch", "moving it, noise on the device", "step")
_NETWORK = {"type": "FFDNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 96, "num_layers": 12}
#: Wall time and CPU time of this process, in seconds.
Times = tuple[float, float]


def reading_rates(settings: Settings) -> list[list[Any]]:
    """Return a row for each way to read: crops out of what, data set, images per CPU second, ratio of these rates."""
    rows = []
    for name in ("reading", "reading_windows"):
        case = build_case(name, settings)
        timings = run_case(case, Settings(torch.device("cpu"), settings.repeats, settings.small))
        by_cpu = ratios(timings, case.reference, "cpu")
        for variant, timing in timings.items():
            rows.append([case.title, variant, CROPS / statistics.median(timing.cpu), 1 / by_cpu[variant]])
    return rows


def training_parts(settings: Settings, noise_on: str, workers: int) -> Callable[[], dict[str, Times]]:
    """Return one measured iteration of FFDNet with L1, batch of 4: times by part (:data:`PARTS`)."""
    block = {
        "type": "NoisyImageDataset",
        "dataroot_gt": str(stored_scenes(sides(settings), "images", False)),
        "gt_size": sides(settings)[2],
        "sigma_range": [0, 75],
        "noise_on": noise_on,
        "batch_size_per_gpu": 4,
        "num_worker_per_gpu": workers,
    }
    on_gpu = settings.device.type == "cuda"
    options = {
        "name": "benchmark",
        "num_gpu": int(on_gpu),
        "datasets": {"train": block},
        "network_g": _NETWORK,
        "train": {"total_iter": 10**6, "optim_g": {"type": "Adam", "lr": 1e-4}, "pixel_opt": {"type": "L1Loss"}},
    }
    complete = validate_options(options) | {"dist": False, "rank": 0, "world_size": 1, "is_train": True}
    model = D2SMModel(complete)
    batches = iter(TrainBatches({"train": {**block, "phase": "train"}}, 0, 0, 1, drawn=0, pin_memory=on_gpu))
    numbers = iter(range(2, 10**9))  # the first step also logs the norms of the gradients
    times: list[Times] = []

    def mark() -> None:
        synchronise(settings.device)
        times.append((time.perf_counter(), time.process_time()))

    move = model.to_device

    def to_device(batch: Any) -> dict[str, Any]:
        moved = move(batch)
        mark()
        return moved

    model.to_device = to_device  # type: ignore[method-assign]

    def step() -> dict[str, Times]:
        times.clear()
        mark()
        batch = next(batches)
        mark()
        model.train_step([batch], next(numbers))
        mark()
        spent = [(end[0] - start[0], end[1] - start[1]) for start, end in pairwise(times)]
        return dict(zip(PARTS, spent, strict=True))

    return step


def main(argv: Sequence[str] | None = None) -> int:
    """Print both tables; see ``--help``."""
    parser = Parser(description="How fast training crops are read, and what of it a training iteration feels.")
    parser.add_argument("--device", type=device, default="cpu", help="of the training: cpu or cuda (default: cpu)")
    parser.add_argument("--workers", type=whole(1), default=8, help="reading processes of the training (default: 8)")
    parser.add_argument("--repeats", type=whole(1), default=15, help="measured rounds (default: 15)")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that everything runs")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = Settings(torch.device(args.device), args.repeats, args.small)
    headers: tuple[str, ...] = ("case", "data set", "images per CPU second", "ratio")
    write = sys.stdout.write
    write(tabulate(reading_rates(settings), headers, tablefmt="github", floatfmt=("", "", ".0f", ".2f")) + "\n\n")
    choices = [(noise_on, workers) for workers in (0, args.workers) for noise_on in ("workers", "device")]
    steps = {choice: training_parts(settings, *choice) for choice in choices}
    measured: dict[tuple[str, int], list[dict[str, Times]]] = {choice: [] for choice in choices}
    for number in range(args.repeats + 2):
        for choice, step in steps.items():
            parts = step()
            if number > 1:
                measured[choice].append(parts)
    headers = ("noise_on", "workers", *(f"{part}: {kind} ms" for part in PARTS for kind in ("wall", "CPU")))
    rows = [
        [*choice, *(1000 * statistics.median(r[part][kind] for r in rounds) for part in PARTS for kind in (0, 1))]
        for choice, rounds in measured.items()
    ]
    write(tabulate(rows, headers, tablefmt="github", floatfmt=".1f") + "\n")
    return 0


if __name__ == "__main__":
    run_tool(main)
