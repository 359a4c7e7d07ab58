"""``python -m d2sm_plugin.studies.benchmark.parts``: which part of a training iteration takes how much CPU time.

FFDNet with L1 and D2SM on windows, as in the case ``precision``; with cropped windows in plain layout and without
folding, and with shared windows in channels_last, in turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

import d2sm_plugin  # noqa: F401  # mends the host and registers everything
from d2sm_plugin.arguments import Parser, whole
from d2sm_plugin.cli import run_tool
from d2sm_plugin.studies.benchmark.cases.iteration import training
from d2sm_plugin.studies.benchmark.cases.precision import D2SM
from d2sm_plugin.studies.benchmark.measure import Settings

_ORDER = ("data", "network, forward", "objectives, forward", "objectives, backward", "network, backward", "optimiser")


class _Clock:
    """CPU time by part: what passed since the last mark belongs to the part that is named."""

    def __init__(self) -> None:
        self.last = time.process_time()
        self.parts: dict[str, float] = defaultdict(float)

    def mark(self, part: str) -> None:
        now = time.process_time()
        self.parts[part] += now - self.last
        self.last = now


def measure_parts(settings: Settings, shared: bool) -> Callable[[], dict[str, float]]:
    """Return one measured iteration: CPU seconds by part."""
    block: dict[str, Any] = deepcopy(D2SM)
    block["patches"]["mode"] = "shared" if shared else "crop"
    block["extractor"]["fold"] = shared
    model, batches = training(settings, {"pixel_opt": {"type": "L1Loss"}, "d2sm_opt": block}, channels_last=shared)
    clock = _Clock()
    _wrap(model, clock)
    count = iter(range(2, 10**9))

    def step() -> dict[str, float]:
        clock.parts.clear()
        clock.last = time.process_time()
        batch = next(batches)
        clock.mark("data")
        model.train_step([batch], next(count))
        clock.mark("optimiser")
        return dict(clock.parts)

    return step


def _wrap(model: Any, clock: _Clock) -> None:
    """Let the model mark where its parts end."""
    run, losses = model.run_network, model.compute_losses

    def run_network(batch: Any) -> Any:
        clock.mark("data")
        outputs = run(batch)
        result = outputs if isinstance(outputs, Tensor) else next(iter(outputs.values()))
        result.register_hook(lambda gradient: clock.mark("objectives, backward"))
        clock.mark("network, forward")
        return outputs

    def compute_losses(batch: Any, outputs: Any) -> dict[str, Tensor]:
        values = losses(batch, outputs)
        clock.mark("objectives, forward")
        return values

    def before_update(*_: object) -> None:
        clock.mark("network, backward")

    model.run_network, model.compute_losses = run_network, compute_losses
    model.optimizers[0].register_step_pre_hook(before_update)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; see ``--help``."""
    parser = Parser(description="Which part of a training iteration takes how much CPU time.")
    parser.add_argument("--rounds", type=whole(1), default=15, help="measured iterations of each (default: 15)")
    rounds = parser.parse_args(argv).rounds
    torch.set_num_threads(1)
    settings = Settings(torch.device("cpu"), rounds, False)
    steps = {name: measure_parts(settings, shared) for name, shared in (("crop", False), ("shared", True))}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            parts = step()
            if number > 1:
                measured[name].append(parts)
    rows = [[part, *(_median(of_step, part) for of_step in measured.values())] for part in _ORDER]
    rows.append(["all", *(1000 * statistics.median(sum(p.values()) for p in r) for r in measured.values())])
    headers = ("CPU ms", "crop, plain layout, not folded", "shared, channels_last")
    sys.stdout.write(tabulate(rows, headers, tablefmt="github", floatfmt=".0f") + "\n")
    return 0


def _median(rounds: list[dict[str, float]], part: str) -> float:
    return 1000 * statistics.median(parts.get(part, 0) for parts in rounds)


if __name__ == "__main__":
    run_tool(main)
