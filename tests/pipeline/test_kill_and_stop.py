from __future__ import annotations

import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest
from runs import ROOT, equal, read_until, run_tool_to_end, start_tool, tiny_options, weights, write_options
from test_training_run import D2SM

STEPS = 60


@pytest.fixture(scope="module")
def uninterrupted(photographs, tmp_path_factory):
    root = tmp_path_factory.mktemp("uninterrupted")
    options = long_options(photographs, root)
    status, output = run_tool_to_end(["-opt", write_options(options, root / "a.yml")])
    assert status == 0, output
    return weights(root)


def long_options(photographs, root):
    weighed = {"type": "MSELoss", "reduction": "sum", "loss_weight": {"relative": 0.5, "steps": 20}}
    options = tiny_options(photographs, root, total_iter=STEPS, d2sm_opt=D2SM, weighed_opt=weighed, ema_decay=0.9)
    options["logger"] |= {"save_checkpoint_freq": 5, "keep_checkpoints": 2, "print_freq": 1}
    options["datasets"]["train"]["num_worker_per_gpu"] = 1
    return options


@pytest.mark.parametrize("moment", ["Checkpoint of step 10 saved", "iter:      23", "Checkpoint of step 40 saved"])
def test_sigkill_and_auto_resume_give_the_same_weights(photographs, tmp_path, uninterrupted, moment):
    path = write_options(long_options(photographs, tmp_path), tmp_path / "a.yml")
    process = start_tool(["-opt", path])
    read_until(process, moment)
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "experiments" / "tiny" / "models" / f"net_g_{STEPS}.safetensors").exists()
    status, output = run_tool_to_end(["-opt", path, "--auto_resume"])
    assert status == 0, output
    assert "Continuing from" in output
    assert equal(uninterrupted, weights(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
def test_asked_to_stop_it_saves_and_leaves_in_order(photographs, tmp_path, uninterrupted, number, to_group):
    """A terminal's Ctrl-C and many schedulers signal the whole process group, the workers of the loader with it."""
    path = write_options(long_options(photographs, tmp_path), tmp_path / "a.yml")
    process = start_tool(["-opt", path], start_new_session=True)
    read_until(process, "iter:      12")
    (os.killpg if to_group else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "continue with --auto_resume" in output
    status, output = run_tool_to_end(["-opt", path, "--auto_resume"])
    assert status == 0, output
    assert equal(uninterrupted, weights(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs the list of libraries of a process")
@pytest.mark.parametrize("library", ["libtorch_cpu", "libtorchvision", "cv2"])
def test_ctrl_c_while_modules_are_imported_is_quiet(tmp_path, library):
    process = start_tool(["-opt", tmp_path / "missing.yml"])
    while process.poll() is None and library not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode in (130, 2), output  # 2: it had read the option file already
    assert "Traceback" not in output


def test_a_terminal_that_closes_stops_a_run_in_order(tmp_path):
    """The terminal is gone after SIGHUP: whatever is printed then must not be an error."""
    program = (
        "import sys, time\n"
        "from d2sm_plugin.pipeline.interrupt import StopSignals\n"
        "with StopSignals() as signals:\n"
        "    print('ready', flush=True)\n"
        "    while not signals.asked:\n"
        "        time.sleep(0.01)\n"
        "    print('to nobody', flush=True)\n"
        "    print('to nobody', file=sys.stderr, flush=True)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", program])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "done").exists()


def test_mistakes_are_one_line_and_a_status(tmp_path):
    status, output = run_tool_to_end(["-opt", tmp_path / "missing.yml"])
    assert status == 2
    assert output.strip().splitlines()[-1].startswith("error: ")
    assert "no such option file" in output
