"""Kills and full disks in great number: ``python tests/pipeline/torture.py kills | events | disk [--help]``.

A process that has imported everything forks one for each training, so that a training costs a second instead of ten.
After each ill-treatment the training is continued with ``--auto_resume``; what it has made at the end must be that of
one that was left alone, bit for bit: weights, moving average, training state with queue and generators, best network,
metrics. Every mode prints figures and ends with status 1 if anything differed.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from runs import tiny_options, write_options
from skimage import data, io

from d2sm_plugin.errors import D2SMError
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.weight_files import load_file

D2SM = {
    "type": "D2SMLoss",
    "loss_weight": 0.01,
    "extractor": {"type": "TimmFeatures", "model": "test_efficientnet", "weights": None},
    "queue": {"type": "QueueSampler", "size": 12},
}
DONE, REFUSED, BROKEN = 0, 2, 3  # statuses of a training: reached its end, ended with one line, ended with a traceback


def make_pictures(folder: Path) -> Path:
    """Write four photographs of 48x48."""
    folder.mkdir(parents=True)
    picture = data.astronaut()
    for number in range(4):
        io.imsave(folder / f"{number}.png", picture[40 * number :][:48, 100:148], check_contrast=False)
    return folder


def options_of(pictures: Path, root: Path, steps: int, workers: int) -> Path:
    """Write the option file of a training with EMA, queue, accumulation, best network and curves."""
    scheduler = {"type": "CosineAnnealingRestartLR", "periods": [steps], "eta_min": 1e-6}
    options = tiny_options(
        pictures, root, total_iter=steps, d2sm_opt=D2SM, ema_decay=0.9, accumulate=2, scheduler=scheduler
    )
    options["datasets"]["train"]["num_worker_per_gpu"] = workers
    options["datasets"]["val_2"] = {**options["datasets"]["val"], "name": "again", "sigma": 50}
    options["val"] |= {"val_freq": 3, "save_best": "psnr", "save_img": True, "max_pictures": 1}
    options["logger"] |= {"save_checkpoint_freq": 1, "keep_checkpoints": 2, "print_freq": 1, "use_tb_logger": True}
    root.mkdir(parents=True, exist_ok=True)
    return write_options(options, root / "a.yml")


def start(file: Path, *arguments: str, before: Callable[[], Any] = lambda: None) -> int:
    """Fork a process that trains; returns its id. What it prints is appended to ``output.txt``."""
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        os.setsid()
        output = os.open(file.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        before()
        training.train(["-opt", str(file), *arguments])
        status = DONE
    except D2SMError as error:
        print(f"error: {error}", flush=True)
        status = REFUSED if "\n" not in str(error) else BROKEN
    except BaseException:  # noqa: BLE001  # the status says so
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(pid: int) -> int:
    """Return the status of a process, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def made(root: Path) -> dict[str, Any]:
    """Return everything that a training has made and that does not depend on the time of day, by file."""
    folder = root / "experiments" / "tiny"
    files = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.suffix in (".safetensors", ".state"):
            files[name] = load_file(file)
        elif file.suffix in (".csv", ".png"):
            files[name] = file.read_bytes()
        elif ".partial" in name:
            files[name] = "left over"
    for value in files.values():
        if isinstance(value, dict) and "options" in value:
            value["options"]["path"] = None
    return files


def equal(left: Any, right: Any) -> bool:
    """Whether nested values are equal, tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def differences(root: Path, whole: dict[str, Any]) -> list[str]:
    """Return the names of files that differ from those of the training that was left alone."""
    actual = made(root)
    names = sorted({*actual, *whole})
    return [n for n in names if n not in actual or n not in whole or not equal(actual[n], whole[n])]


def last_step(output: Path, since: int = 0) -> int | None:
    """Return the last step that a training's output names from a byte on; None before the first."""
    named = re.findall(rb"iter: *([\d,]+)", output.read_bytes()[since:]) if output.exists() else []
    return int(named[-1].replace(b",", b"")) if named else None


def wait_for_step(pid: int, output: Path, step: int, since: int = 0) -> None:
    """Return when a training has logged a step, or has ended."""
    while (last_step(output, since) or 0) < step:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)


def torture_by_kills(work: Path, number: int, steps: int, seed: int) -> int:
    """Kill one training at random moments: after steps spread over all of it, and one time in five at its start.

    The moments follow what the training logs, not the clock, so that a busy machine does not draw them together.
    """
    pictures = make_pictures(work / "pictures")
    alone = options_of(pictures, work / "alone", steps, workers=2)
    begun, pid = time.monotonic(), start(alone)
    wait_for_step(pid, work / "alone" / "output.txt", 1)
    start_up = time.monotonic() - begun
    assert wait(pid) == DONE, (work / "alone" / "output.txt").read_text()
    step_time = (time.monotonic() - begun - start_up) / steps
    file, output = options_of(pictures, work / "killed", steps, workers=2), work / "killed" / "output.txt"
    states = work / "killed" / "experiments" / "tiny" / "training_states"
    chance, endings = random.Random(seed), {DONE: 0, REFUSED: 0, BROKEN: 0}
    kills: list[int | None] = []
    while len(kills) < number and not endings[DONE]:
        saved = max((int(state.stem) for state in states.glob("*.state")), default=0)
        since = output.stat().st_size if output.exists() else 0
        pid = start(file, "--auto_resume")
        if chance.random() < 0.2:
            time.sleep(chance.uniform(0, start_up))
        else:
            furthest = max(1, 2 * (steps - saved) // (number - len(kills) + 2) - 1)
            wait_for_step(pid, output, saved + chance.randint(1, furthest), since)
            time.sleep(chance.uniform(0, step_time))
        os.kill(pid, signal.SIGKILL)
        status = wait(pid)
        if status == -signal.SIGKILL:
            kills.append(last_step(output, since))
        else:
            endings[status] += 1
    status = wait(start(file, "--auto_resume"))
    differ = differences(work / "killed", made(work / "alone"))
    after = [step for step in kills if step is not None]
    print(
        f"{len(kills)} kills of a training of {steps} steps, {len(kills) - len(after)} before the first step of their "
        f"process and {len(after)} after {len(set(after))} different ones: {after}; the last process ends with status "
        f"{status}; tracebacks: {endings[BROKEN]}, refusals: {endings[REFUSED]}; files that differ: {differ or 'none'}"
    )
    return int(bool(differ) or status != DONE or endings[BROKEN] > 0 or len(kills) < number)


def torture_by_events(work: Path, steps: int, every: int) -> int:
    """Kill a training before each change that it makes to the file system."""
    pictures = make_pictures(work / "pictures")
    alone = options_of(pictures, work / "alone", steps, workers=0)
    events = work / "events.txt"
    assert wait(start(alone, before=lambda: watch(work / "alone", events, kill_at=None))) == DONE
    log = events.read_text().splitlines()
    whole, bad = made(work / "alone"), []
    for moment in range(1, len(log) + 1, every):
        root = work / "killed"
        shutil.rmtree(root, ignore_errors=True)
        file = options_of(pictures, root, steps, workers=0)
        died = wait(start(file, before=lambda at=moment, root=root: watch(root, work / "again.txt", kill_at=at)))
        status = wait(start(file, "--auto_resume"))
        differ = differences(root, whole)
        if died != -signal.SIGKILL or status != DONE or differ:
            bad.append(f"before event {moment}, {log[moment - 1]}: ended with {died}, then {status}; differ: {differ}")
    print(f"{len(range(1, len(log) + 1, every))} kills before {len(log)} events; failures: {len(bad)}")
    for line in bad:
        print(line)
    return int(bool(bad))


def watch(root: Path, log: Path, kill_at: int | None) -> None:
    """Log every change that this process is about to make below a folder; die before one of them."""
    number = 0
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal number
        if event == "open":
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if isinstance(arguments[2], int) else False
        else:
            writes = event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.rmdir")
        if not writes or not isinstance(arguments[0], (str, Path)) or not str(arguments[0]).startswith(str(root)):
            return
        number += 1
        os.write(out, f"{event} {arguments[0]}\n".encode())
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def torture_by_full_disks(work: Path, steps: int, kib: int) -> int:
    """Train on disks that are full after 4, 8, 12... KiB; then give them space and go on."""
    pictures = make_pictures(work / "pictures")
    assert wait(start(options_of(pictures, work / "alone", steps, workers=0))) == DONE
    whole = made(work / "alone")
    needed = sum(file.stat().st_size for file in (work / "alone" / "experiments").rglob("*") if file.is_file())
    ended = {DONE: 0, REFUSED: 0, BROKEN: 0}
    bad, size = [], kib
    while ended[DONE] < 3 and size < 8 * needed // 1024:
        root = work / "full"
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", root], check=True)
        try:
            (root / "experiments").mkdir()
            options_of(pictures, root, steps, workers=0)
            shutil.move(root / "a.yml", work / "a.yml")
            first = wait(start(work / "a.yml"))
            left = list(root.rglob("*.partial"))
            subprocess.run(["mount", "-o", "remount,size=64m", "tmpfs", root], check=True)
            second = wait(start(work / "a.yml", "--auto_resume")) if first != DONE else DONE
            differ = differences(root, whole)
            ended[first] = ended.get(first, 0) + 1
            if first not in (DONE, REFUSED) or second != DONE or left or differ:
                bad.append(f"{size} KiB: ended with {first}, then {second}; left over: {left}; differ: {differ}")
        finally:
            subprocess.run(["umount", root], check=True)
            root.rmdir()
        size += kib
    print(
        f"disks of {kib} to {size - kib} KiB: {ended[REFUSED]} refusals in one line, {ended[BROKEN]} tracebacks, "
        f"{ended[DONE]} reached the end; failures: {len(bad)}"
    )
    for line in bad:
        print(line)
    return int(bool(bad))


def main() -> int:
    """Run one mode."""
    parser = argparse.ArgumentParser(description="Ill-treat trainings and see whether they end up the same.")
    parser.add_argument("mode", choices=["kills", "events", "disk"])
    parser.add_argument("work", type=Path, help="folder to work in; it must not exist")
    parser.add_argument("--number", type=int, default=50, help="kills at random moments")
    parser.add_argument("--steps", type=int, default=0, help="of the training (default: 200 for kills, else 6)")
    parser.add_argument("--every", type=int, default=1, help="events: kill before each n-th; disk: steps of 4 KiB")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    torch.set_num_threads(1)
    if args.mode == "kills":
        return torture_by_kills(args.work, args.number, args.steps or 200, args.seed)
    if args.mode == "events":
        return torture_by_events(args.work, args.steps or 6, args.every)
    return torture_by_full_disks(args.work, args.steps or 6, 4 * args.every)


if __name__ == "__main__":
    sys.exit(main())
