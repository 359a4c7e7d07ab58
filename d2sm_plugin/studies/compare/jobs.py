"""The processes that a suite needs: what each trains and measures, where it is kept, and how far it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from d2sm_plugin.files import reading_again, write_whole
from d2sm_plugin.options.merge import merge
from d2sm_plugin.pipeline.checkpoint import CheckpointStore
from d2sm_plugin.studies.compare.fingerprint import essence, fingerprint
from d2sm_plugin.studies.compare.run_options import (
    check_options,
    start_weights,
    test_options,
    tested_options,
    trained_test_options,
    training_options,
)
from d2sm_plugin.studies.compare.suite import Suite

TRAIN_FILE, TRAINED, LOCK, LOG = "train.yml", "trained.json", "lock", "log.txt"


@dataclass(frozen=True)
class SuiteRun:
    """One row and seed of a suite: a training and its test, or a test alone.

    Attributes:
        row: variant or untrained row.
        seed: of the training; None for rows that are not trained.
        kind: ``run`` or ``reference`` (the degraded and the clean images themselves).
        out: folder of all runs, ``--out``.
        name: of the run's folders.
        train: raw options of the training; None where nothing is trained.
        test: raw options of the test, without name and weights for a run.
        processes: of the training.
    """

    row: str
    seed: int | None
    kind: str
    out: Path
    name: str
    train: Mapping[str, Any] | None
    test: Mapping[str, Any]
    processes: int = 1

    @cached_property
    def definition(self) -> dict[str, Any]:
        """Options that the training's result depends on, beside the seed; empty where nothing is trained."""
        return {} if self.train is None else essence(self.train, self.processes)

    @property
    def folder(self) -> Path:
        """Option files, log and results of the run."""
        return self.out / "runs" / self.name

    @property
    def experiment(self) -> Path:
        """Folder that the training writes."""
        return self.out / "experiments" / self.name

    @cached_property
    def test_name(self) -> str:
        """Name of the test's files: ``test-`` and the fingerprint of what is measured."""
        return f"test-{fingerprint(essence(self.test))}"

    @property
    def result(self) -> Path:
        """The scores; the file exists once the test has ended."""
        return self.folder / f"{self.test_name}.json"

    @property
    def records(self) -> Path:
        """File of what the test measured of each image."""
        return self.folder / f"{self.test_name}.csv"

    @property
    def weights(self) -> str | Path | None:
        """The trained network, or the one that is tested as it is: a path or a URL; None for one without weights."""
        if self.train is None:
            source = self.test["path"].get("pretrain_network_g")
            return None if source is None else str(source)
        return CheckpointStore(self.experiment).network_file("net_g", "latest")

    def trained(self) -> bool:
        """True when nothing is left to train."""
        return self.train is None or (self.folder / TRAINED).is_file()

    def finished(self) -> bool:
        """True when nothing is left to do."""
        return self.trained() and self.result.is_file()

    def busy(self) -> bool:
        """Tell whether some process, of another call perhaps, is at work on it."""
        if not self.folder.is_dir():
            return False
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    def state(self) -> str:
        """Say how far it is, for people."""
        if self.finished():
            return "finished"
        if self.busy():
            return "running"
        if self.train is None or self.trained():
            return "to test"
        steps = CheckpointStore(self.experiment).iterations()
        return f"stopped at step {steps[-1]:,} of {self.train['train']['total_iter']:,}" if steps else "not started"

    def scores(self) -> dict[str, dict[str, float]]:
        """Return the metrics of every test set; the test must have ended."""
        with reading_again(self.result, "remove it, and the run is tested again"):
            sets = json.loads(self.result.read_text(encoding="utf-8"))["sets"]
            return {name: {metric: float(v) for metric, v in metrics.items()} for name, metrics in sets.items()}

    def versions(self) -> str | None:
        """Return what it was trained with; None where nothing is trained or the run does not say."""
        file = self.folder / TRAINED
        if self.train is None:
            return None
        with reading_again(file, f"remove {self.folder}, and the run is made again"):
            return json.loads(file.read_text(encoding="utf-8")).get("versions")

    def write_options(self) -> None:
        """Write the option files that the process reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.train is not None:
            roots = {"experiments_root": str(self.out / "experiments")}
            self._write(TRAIN_FILE, merge(self.train, {"name": self.name, "path": roots}))
        path = {"results_root": str(self.out / "results")}
        if self.kind == "run" and self.weights is not None:
            path["pretrain_network_g"] = str(self.weights)
        name = f"{self.name}-{self.test_name}"
        self._write(f"{self.test_name}.yml", merge(self.test, {"name": name, "path": path}))

    def _write(self, file: str, options: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)
        path = self.folder / file
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return
        write_whole(path, text)  # another call may write it too, or its child read it


def make_jobs(suite: Suite, base: Mapping[str, Any], out: Path, source: str | Path) -> list[SuiteRun]:
    """Return every job of a suite, checked: untrained rows first, then the variants, seed by seed.

    Runs of other suites with the same fingerprint are found again by it, whatever their row was called.

    Args:
        suite: the suite.
        base: raw content of its base option file.
        out: folder of all runs.
        source: the suite file, for messages.

    Raises:
        OptionError: when a variant's options are not valid; the message names the variant and the key.
    """
    trains = {variant: training_options(suite, base, variant) for variant in suite.variants}
    tests = {row: tested_options(suite, base, row) for row in suite.tested}
    check_options(suite, trains, source, tests)
    jobs = _untrained(suite, merge(base, suite.options), tests, out)
    order = [(seed, variant) for variant in suite.variants for seed in suite.seeds_of(variant)]
    marks = {variant: fingerprint(essence(train, suite.processes)) for variant, train in trains.items()}
    names: dict[tuple[str, int], str] = {}  # variants that are equal share their runs
    for seed, variant in sorted(order, key=lambda pair: pair[0]):  # stable: in a seed, variants in the suite's order
        train = trains[variant] | {"manual_seed": seed}
        mark = marks[variant]
        name = names.setdefault((mark, seed), _run_name(out, variant, mark, seed))
        test = trained_test_options(suite, train, variant)
        jobs.append(SuiteRun(variant, seed, "run", out, name, train, test, suite.processes))
    return jobs


def _untrained(
    suite: Suite, common: Mapping[str, Any], tests: Mapping[str, Mapping[str, Any]], out: Path
) -> list[SuiteRun]:
    jobs = []
    rows = suite.untrained
    test = test_options(suite, common)
    if rows.input is not None or rows.clean is not None:
        bare = {**test, "network_g": {"type": test["network_g"]["type"]}}  # no network has a part in it
        mark = fingerprint(essence(bare))
        jobs.append(SuiteRun("input and clean", None, "reference", out, f"reference-{mark}", None, bare))
    if rows.start is not None and start_weights(common).get("pretrain_network_g"):
        start = {**test, "path": start_weights(common)}
        jobs.append(SuiteRun(rows.start, None, "run", out, f"start-{_network_mark(start)}", None, start))
    for row, tested in tests.items():
        jobs.append(SuiteRun(row, None, "run", out, f"{_slug(row)}-{_network_mark(tested)}", None, tested))
    return jobs


def _network_mark(test: Mapping[str, Any]) -> str:
    return fingerprint(essence({**test, "val": {}, "datasets": {}}))


def _run_name(out: Path, variant: str, mark: str, seed: int) -> str:
    known = (out / "runs").glob(f"*-{mark}-s{seed}")
    runs = sorted(known, key=lambda run: (not (run / TRAINED).is_file(), run.name))
    if runs:
        return runs[0].name
    return f"{_slug(variant)}-{mark}-s{seed}"


def _slug(row: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_") or "variant"
