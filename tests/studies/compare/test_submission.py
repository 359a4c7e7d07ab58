"""Runs of a suite as jobs: handed in to submitit's local executor, stopped, preempted, and what it refuses."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import submitit
from compare_material import base_options, suite_content, write_suite

import d2sm_plugin  # noqa: F401
from d2sm_plugin.errors import DependencyError, OptionError
from d2sm_plugin.pipeline.checkpoint import CheckpointStore
from d2sm_plugin.studies.compare.child import STOPPED
from d2sm_plugin.studies.compare.compare import main
from d2sm_plugin.studies.compare.jobs import make_jobs
from d2sm_plugin.studies.compare.submission import Submission, SubmittedRun
from d2sm_plugin.studies.compare.suite import read_suite


def one_run(photographs, folder, steps=4):
    base = base_options(photographs)
    base["train"]["total_iter"] = steps
    content = suite_content(photographs, seeds=[3], variants={"L1": {}}, untrained=dict.fromkeys(("input", "clean")))
    path = write_suite(folder, content, base)
    suite, options = read_suite(path)
    [job] = make_jobs(suite, options, folder / "out", path)
    return path, job


def test_a_suite_whose_runs_are_jobs(photographs, tmp_path, capsys):
    path, job = one_run(photographs, tmp_path)
    arguments = ["--out", tmp_path / "out", "--no-cost", "--submit", "local", "--submit-settings", "timeout_min=10"]
    assert main([str(argument) for argument in (path, *arguments)]) == 0
    assert job.finished() and "| L1 |" in capsys.readouterr().out.replace("  ", " ")
    assert "End of training" in (job.folder / "log.txt").read_text() or job.trained()
    assert list((tmp_path / "out" / "submitit").glob("*_result.pkl"))


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the job's process by Linux's /proc")
def test_a_job_is_preempted_and_stopped_in_order(photographs, tmp_path):
    _, job = one_run(photographs, tmp_path, steps=100_000)
    run = Submission("local", [], tmp_path / "out")(job, 0, 1)
    assert run.poll() is None
    wait_for(lambda: CheckpointStore(job.experiment).iterations())
    controller = run.job._process.pid
    task = int(Path(f"/proc/{controller}/task/{controller}/children").read_text().split()[0])
    os.kill(task, signal.SIGUSR2)  # as a cluster that wants its node back
    wait_for(lambda: "Continuing from" in (job.folder / "log.txt").read_text())
    assert run.poll() is None
    run.terminate()
    wait_for(lambda: run.poll() is not None)
    assert run.poll() == STOPPED
    assert job.state().startswith("stopped at step ") and not job.busy()


class Job:
    """Stand-in for a job of a cluster that does not start."""

    state = "PENDING"
    cancelled = False

    def done(self):
        return self.cancelled

    def cancel(self, check):
        self.cancelled = True

    def result(self):
        raise submitit.core.utils.UncompletedJobError("cancelled")


def test_a_job_that_waits_is_taken_back(monkeypatch, photographs, tmp_path):
    _, job = one_run(photographs, tmp_path)
    monkeypatch.setattr(submitit.AutoExecutor, "submit", lambda executor, work: Job())
    run = Submission("local", [], tmp_path / "out")(job, 0, 1)
    assert run.poll() is None
    run.terminate()
    assert run.poll() == STOPPED
    run.stop.unlink()
    assert run.poll() == 1  # nobody asked it to stop: it failed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["timeout_min"], "--submit-settings timeout_min: expected NAME=VALUE"),
        (["timeout_mins=5"], "--submit-settings: submitit refuses them"),
        (["slurm_nodes=2"], "--submit-settings slurm_nodes: a run is one task of a job; remove it"),
        (["timeout_min=soon"], "--submit-settings: submitit refuses them"),
        (["timeout_min="], "--submit-settings timeout_min=: a value is missing"),
        (["name=mine"], "--submit-settings name: a job has the name of its run; remove it"),
    ],
)
def test_settings_that_submitit_does_not_know(settings, message, tmp_path):
    with pytest.raises(OptionError, match=f"^{message}") as error:
        Submission("local", settings, tmp_path)
    assert "\n" not in str(error.value)
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(OptionError, match=r"^--submit slurm: .*(srun|sbatch|slurm)"):
        Submission("slurm", [], tmp_path)


def test_without_submitit(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(DependencyError, match=r'pip install "\.\[slurm\]" in a clone'):
        Submission("local", [], tmp_path)


def test_what_ended_a_job_from_outside_is_in_its_log(tmp_path):
    class Lost:
        def done(self):
            return True

        def result(self):
            raise RuntimeError("the node went away")

    log = tmp_path / "log.txt"
    log.write_text("step 1\n")
    run = SubmittedRun(Lost(), tmp_path / "stop", log)
    assert run.poll() == 1
    assert log.read_text() == "step 1\nThe job ended without a result: RuntimeError: the node went away\n"
    (tmp_path / "stop").touch()
    assert run.poll() == STOPPED
