from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from d2sm_plugin.data.prepare.jobs import ordered_map
from d2sm_plugin.errors import DataError


def _square(number):
    if number == 20:
        raise DataError("twenty")
    return number * number


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("by_processes", [False, True])
def test_maps_keep_the_order_and_stop_at_the_first_error(by_processes, workers):
    assert list(ordered_map(_square, list(range(15)), workers, by_processes)) == [number**2 for number in range(15)]
    results = ordered_map(_square, list(range(1000)), workers, by_processes)
    assert [next(results) for _ in range(20)] == [number**2 for number in range(20)]
    with pytest.raises(DataError, match=r"^twenty$"):
        next(results)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_any_way_to_start_processes_serves(method):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        assert list(ordered_map(_square, [1, 2, 3], 2, by_processes=True)) == [1, 4, 9]
    finally:
        multiprocessing.set_start_method(before, force=True)


def _large(number):
    return os.getpid(), bytes(300_000)


def _hand_out_pids(queue):
    for pid, _ in ordered_map(_large, list(range(100_000)), 2, by_processes=True):
        queue.put(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc for processes")
def test_worker_processes_end_when_their_parent_is_killed():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    parent = context.Process(target=_hand_out_pids, args=(queue,))
    parent.start()
    workers = {queue.get(timeout=60) for _ in range(20)}
    parent.kill()
    parent.join()
    deadline = time.monotonic() + 30
    while any(_is_running(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _die(number):
    os._exit(3)


def test_worker_process_that_dies():
    with pytest.raises(DataError, match="a worker process died"):
        list(ordered_map(_die, [1, 2, 3], 2, by_processes=True))


def test_threads_work_a_few_items_ahead_only():
    started = []
    results = ordered_map(started.append, list(range(1000)), 3)
    for _ in range(10):
        next(results)
    results.close()
    assert len(started) < 30
