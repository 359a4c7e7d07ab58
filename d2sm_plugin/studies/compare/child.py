"""One job of a suite in a process of its own: ``python -m d2sm_plugin.studies.compare.child FOLDER KIND TEST``.

Each part that is complete leaves a file in the job's folder, written whole: ``trained.json``, then ``test-*.csv``
(what was measured of each image) and ``test-*.json``.
What is there is not done again; a training that was broken off continues from its newest checkpoint.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from d2sm_plugin.arguments import Parser
from d2sm_plugin.cli import run_tool
from d2sm_plugin.files import link_whole, write_json
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline import train as training
from d2sm_plugin.pipeline.checkpoint import CheckpointStore
from d2sm_plugin.pipeline.distributed import start_processes
from d2sm_plugin.pipeline.experiment import versions
from d2sm_plugin.pipeline.image_records import RECORDS
from d2sm_plugin.pipeline.testing import run_test
from d2sm_plugin.studies.compare.jobs import LOCK, TRAIN_FILE, TRAINED
from d2sm_plugin.studies.compare.references import measure_references

#: Exit statuses that are no failure: another process has the job; the training stopped as it was asked to.
BUSY, STOPPED = 75, 76


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is left of a job; returns 0 when nothing is left, :data:`BUSY` or :data:`STOPPED`."""
    parser = Parser(description="Train and test one run of a suite.")
    parser.add_argument("folder", type=Path, help="folder of the job, with its option files")
    parser.add_argument("kind", choices=["run", "reference"], help="reference: measure the images themselves")
    parser.add_argument("test", help="name of the test's option file, without .yml")
    parser.add_argument("--launcher", choices=["none", "pytorch"], default="none", help="pytorch: under torchrun")
    args = parser.parse_args(argv)
    if args.launcher == "pytorch" and os.environ["RANK"] != "0":  # trains along; all else is the first one's
        training.main(_training_arguments(args.folder / TRAIN_FILE, args.launcher))
        return 0
    try:
        with FileLock(args.folder / LOCK, timeout=0):
            return _work(args.folder, args.kind, args.test, args.launcher)
    except Timeout:
        return BUSY


def _work(folder: Path, kind: str, test: str, launcher: str) -> int:
    file = folder / TRAIN_FILE
    if file.is_file() and not (folder / TRAINED).is_file() and not _train(file, folder, launcher):
        return STOPPED
    result = folder / f"{test}.json"
    if not result.is_file():
        begun = time.time()
        options = read_options(folder / f"{test}.yml", is_train=False)
        options |= start_processes("none", options["num_gpu"])
        measured: Mapping[str, Mapping[str, float]]
        if kind == "reference":
            measured = measure_references(options, folder / f"{test}.csv")
        else:
            measured = _test(options, folder / f"{test}.yml")
            results = Path(options["path"]["results_root"]) / options["name"] / RECORDS
            link_whole(results, folder / f"{test}.csv")
        write_json(result, {"sets": measured, "seconds": round(time.time() - begun, 1)})
    return 0


def _train(file: Path, folder: Path, launcher: str) -> bool:
    """Train to the end, from the newest checkpoint; returns False when the training was asked to stop before."""
    begun = time.time()
    options = read_options(file)
    experiment = Path(options["path"]["experiments_root"]) / options["name"]
    done = CheckpointStore(experiment).iterations()
    if not done:  # killed before its first checkpoint: nothing in it is of use
        shutil.rmtree(experiment, ignore_errors=True)
    if not training.train(_training_arguments(file, launcher)):
        return False
    total = options["train"]["total_iter"]
    first = done[-1] if done else 0
    seconds = round(time.time() - begun, 1)
    write_json(folder / TRAINED, {"steps": total, "from_step": first, "seconds": seconds, "versions": versions()})
    return True


def _training_arguments(file: Path, launcher: str) -> list[str]:
    return ["-opt", str(file), "--auto_resume", "--launcher", launcher]


def _test(options: dict[str, Any], file: Path) -> dict[str, Mapping[str, float]]:
    return {name: metrics for name, (_, metrics) in run_test(options, str(file)).items()}


if __name__ == "__main__":
    import d2sm_plugin  # noqa: F401  # mends the host and registers everything

    run_tool(main)
