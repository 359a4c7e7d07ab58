from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import settings

# Processes side by side share the cores. Left to itself, each of them would start a thread for every core, and their
# threads would spend most of their time waiting for one another. Set before torch is imported, and for child processes.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import d2sm_plugin  # noqa: F401  # mends the host before any test imports it

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")

# Under nohup SIGHUP is ignored, and so it would be in the trainings that tests start and stop.
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser):
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run-slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow; run with --run-slow"))


@pytest.fixture(autouse=True)
def _command_line_of_its_test(monkeypatch):
    """A command line lasts as long as its process, of which all tests share one: forget it after each."""
    monkeypatch.setattr("d2sm_plugin.custom_imports._on_command_line", [])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the checkout, which only developers have."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder of test material (../shared), which is not part of the package")
    return SHARED


@pytest.fixture(scope="session")
def photographs(tmp_path_factory) -> Path:
    """A folder with six real 96x96 photographs, cut from pictures that scikit-image ships."""
    from skimage import data, io

    folder = tmp_path_factory.mktemp("photographs")
    for name, picture in (("astronaut", data.astronaut()), ("cat", data.chelsea()), ("coffee", data.coffee())):
        for number, (top, left) in enumerate(((40, 100), (150, 180))):
            io.imsave(folder / f"{name}_{number}.png", picture[top : top + 96, left : left + 96], check_contrast=False)
    return folder


@contextlib.contextmanager
def _files_of_four_kib() -> Iterator[None]:
    import resource

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """A block in which the kernel lets no file grow beyond 4 KiB, as on a full disk.

    A block and no state of the whole test: the test run's own report is a file that may be longer.
    """
    return _files_of_four_kib
