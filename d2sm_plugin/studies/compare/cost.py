"""Time and memory of a training step of every variant, measured one after another in processes of their own."""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tqdm import tqdm

from d2sm_plugin.errors import TrainingError
from d2sm_plugin.files import reading_again, write_json
from d2sm_plugin.options.data_sets import training_blocks
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.pipeline.build import build_model
from d2sm_plugin.pipeline.distributed import start_processes
from d2sm_plugin.pipeline.loaders import TrainBatches
from d2sm_plugin.pipeline.random_state import seed_everything
from d2sm_plugin.pipeline.run_log import HOST_LOGGER
from d2sm_plugin.studies.benchmark.measure import timed
from d2sm_plugin.studies.benchmark.memory import forget_peak, peak_resident, resident
from d2sm_plugin.studies.compare.fingerprint import fingerprint
from d2sm_plugin.studies.compare.jobs import SuiteRun
from d2sm_plugin.studies.compare.runner import environment
from d2sm_plugin.studies.compare.suite import Suite

FILE = "cost.json"
_MIB = 2**20


def read_cost(suite: Suite, jobs: Sequence[SuiteRun], folder: Path) -> dict[str, dict[str, float]]:
    """Return variant -> ratios ``time`` and ``memory`` to the baseline, as far as they were measured as defined now.

    ``time`` compares CPU time on a CPU, which other processes disturb less, and wall time on a GPU.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    with reading_again(file, "remove it, and cost is measured again"):
        stored = json.loads(file.read_text(encoding="utf-8"))
        marks = _marks(jobs)
        measured = {
            name: variant for name, variant in stored["variants"].items() if variant["definition"] == marks.get(name)
        }
        base = measured.get(suite.baseline)
        if base is None:
            return {}
        kind = "wall" if stored["device"] == "cuda" else "cpu"
        return {
            name: {
                "time": statistics.median(a / b for a, b in zip(variant[kind], base[kind], strict=True)),
                "memory": variant["peak_mib"] / base["peak_mib"],
            }
            for name, variant in measured.items()
        }


def cost_lock(out: Path) -> FileLock:
    """Return the lock that is held while cost is measured: two measurements on one machine would disturb each other.

    Args:
        out: folder of all runs, which it makes.
    """
    out.mkdir(parents=True, exist_ok=True)
    return FileLock(out / "cost.lock")


def measure_cost(suite: Suite, jobs: Sequence[SuiteRun], folder: Path) -> None:
    """Measure every variant in turns, round by round, and write ``cost.json``.

    Each figure is the median over the steps of a round: ``wall`` and ``cpu`` in seconds, a value for each round.
    ``peak_mib`` is the most memory beyond what was in use before data and network were built (resident on a CPU,
    allocated on a GPU). Data are loaded outside the measured time.

    Raises:
        TrainingError: when a variant cannot be measured; the message holds the last lines of its process.
    """
    trains = {job.row: job.train for job in reversed(jobs) if job.train is not None}
    measured: dict[str, list[dict[str, Any]]] = {variant: [] for variant in suite.variants}
    turns = [variant for _ in range(suite.cost.rounds) for variant in suite.variants]
    for variant in (bar := tqdm(turns, desc="cost", unit="process", dynamic_ncols=True)):
        bar.set_postfix_str(variant)
        measured[variant].append(_measure_in_process(variant, trains[variant], suite))
    first = measured[suite.baseline][0]
    if not max(measurement["peak_mib"] for measurement in measured[suite.baseline]):
        raise TrainingError(f"cost of '{suite.baseline}': no memory was seen in use; --no-cost leaves it out")
    marks = _marks(jobs)
    variants = {
        name: {
            "definition": marks[name],
            "wall": [measurement["wall"] for measurement in rounds],
            "cpu": [measurement["cpu"] for measurement in rounds],
            "peak_mib": round(max(measurement["peak_mib"] for measurement in rounds), 1),
        }
        for name, rounds in measured.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: first[key] for key in ("device", "processor", "threads")}
    write_json(folder / FILE, {**settings, **suite.cost.model_dump(), "variants": variants})


def _measure_in_process(variant: str, train: Mapping[str, Any], suite: Suite) -> dict[str, Any]:
    request = {"options": train, "steps": suite.cost.steps, "drop": suite.cost.drop}
    child_process = subprocess.run(
        [sys.executable, "-c", "from d2sm_plugin.studies.compare.cost import child; child()"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=environment(0, 1),
    )
    if child_process.returncode:
        last = " / ".join(child_process.stderr.strip().splitlines()[-3:])
        raise TrainingError(f"cost of '{variant}': its process failed ({last}); --no-cost leaves time and memory out")
    return json.loads(child_process.stdout.strip().splitlines()[-1])


def child() -> None:
    """Measure the training that standard input describes and write the result to standard output."""
    import d2sm_plugin  # noqa: F401  # mends the host and registers everything

    logging.getLogger(HOST_LOGGER).setLevel(logging.ERROR)
    request = json.loads(sys.stdin.read())
    sys.stdout.write(f"\n{json.dumps(measure_training(request['options'], request['steps'], request['drop']))}\n")


def measure_training(raw: Mapping[str, Any], steps: int, drop: int) -> dict[str, Any]:
    """Train some steps and return the median time of one and the peak memory.

    Args:
        raw: option file of the training.
        steps: training steps.
        drop: first steps that do not count.
    """
    options = deepcopy(dict(raw))
    for key in training_blocks(options["datasets"]):
        options["datasets"][key]["num_worker_per_gpu"] = 0
    options = validate_options(options)
    options |= start_processes("none", options["num_gpu"])
    seed_everything(options["manual_seed"])
    on_gpu = options["num_gpu"] > 0
    device = torch.device("cuda" if on_gpu else "cpu")
    forget_peak()
    before = torch.cuda.memory_allocated() if on_gpu else resident()
    data = TrainBatches(training_blocks(options["datasets"]), options["manual_seed"], 0, 1, 0, on_gpu)
    model = build_model(options)
    times = []
    with closing(iter(data)) as batches:
        for step in range(1, steps + 1):
            group = [next(batches) for _ in range(options["train"]["accumulate"])]
            times.append(timed(partial(model.train_step, group, step), device))
    peak = torch.cuda.max_memory_allocated() if on_gpu else peak_resident()
    wall, cpu = zip(*times[drop:], strict=True)
    return {
        "wall": statistics.median(wall),
        "cpu": statistics.median(cpu),
        "peak_mib": max(0, peak - before) / _MIB,  # a process may give memory back between the two readings
        "device": device.type,
        "processor": torch.cuda.get_device_name() if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "CPU")


def _marks(jobs: Sequence[SuiteRun]) -> dict[str, str]:
    return {job.row: fingerprint(job.definition) for job in jobs if job.train is not None}
