"""Peak memory of one variant, in a process of its own so that no other variant's memory counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from d2sm_plugin.errors import D2SMError
from d2sm_plugin.studies.benchmark.measure import Case, Settings, synchronise

_MIB = 2**20


def peak_memory(name: str, variant: str, settings: Settings, threads: int) -> float:
    """Return the most memory in MiB that a variant takes beyond what was in use before it was prepared.

    Host memory that is resident on a CPU, allocated device memory on a GPU.

    Raises:
        D2SMError: where the system does not say how much memory a process takes.
        RuntimeError: when the child process fails; the message holds its last lines.
    """
    if settings.device.type == "cpu":
        peak_resident()  # where that is impossible, say so before a process is started
    arguments = {
        "name": name,
        "variant": variant,
        "device": str(settings.device),
        "small": settings.small,
        "threads": threads,
    }
    child = subprocess.run(
        [sys.executable, "-c", "from d2sm_plugin.studies.benchmark.memory import child; child()"],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    if child.returncode:
        raise RuntimeError(f"memory of '{variant}' in '{name}': {child.stderr[-2000:]}")
    return float(child.stdout.strip().splitlines()[-1])


def child() -> None:
    """Measure the variant that standard input describes and write the result to standard output."""
    import d2sm_plugin  # noqa: F401  # mends the host and registers everything
    from d2sm_plugin.studies.benchmark.cases import build_case

    arguments = json.loads(sys.stdin.read())
    torch.set_num_threads(arguments["threads"])
    settings = Settings(torch.device(arguments["device"]), 1, arguments["small"])
    case = build_case(arguments["name"], settings)
    sys.stdout.write(f"{_peak(case, arguments['variant'], settings)}\n")


def _peak(case: Case, variant: str, settings: Settings) -> float:
    if settings.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resident()
        forget_peak()
    step = case.variants[variant]()
    for _ in range(3):
        step()
    synchronise(settings.device)
    peak = torch.cuda.max_memory_allocated() if settings.device.type == "cuda" else peak_resident()
    return (peak - before) / _MIB


def _status(entry: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(f"{entry}:"))
    return int(line.split()[1]) * 1024


def resident() -> int:
    """Return the memory in use now, in bytes; outside Linux the peak so far."""
    return _status("VmRSS") or _maximum()


def peak_resident() -> int:
    """Return the most memory that was in use since the start, or since :func:`forget_peak`, in bytes."""
    return _status("VmHWM") or _maximum()


def _maximum() -> int:
    try:
        import resource
    except ImportError:  # Windows
        raise D2SMError("peak memory is measured on Linux and macOS alone; leave it out with --no-memory") from None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Start the peak anew from what is in use now; outside Linux it stays."""
    switch = Path("/proc/self/clear_refs")
    if switch.exists():
        switch.write_text("5", encoding="utf-8")
