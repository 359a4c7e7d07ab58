"""Making an LMDB out of many small jobs: in parallel, with a progress bar, restartable."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from d2sm_plugin.data.lmdb_progress import Record, origin_digest, read_origin
from d2sm_plugin.data.lmdb_writer import LmdbWriter
from d2sm_plugin.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RecordJob:
    """Records made of one source image.

    Attributes:
        identity: says what it is made from and how, see :func:`identity_of`; equal identity, equal records.
        make: reads, converts and encodes; returns the records, or for several LMDBs a tuple with the list of each.
            Raises DataError for a source that cannot be used.
    """

    identity: str
    make: Callable[[], list[Record] | tuple[list[Record], ...]]


@dataclass(frozen=True)
class Settings:
    """Settings that all subcommands share.

    Attributes:
        out: folder that receives the LMDBs.
        overwrite: replace LMDBs that exist.
        workers: threads that read, decode and encode (OpenCV lets go of the interpreter while it works), or processes.
        compress_level: PNG compression of images that are encoded anew, 0 to 9.
        verify_all: decode every record of the finished LMDB, not a sample.
    """

    out: Path
    overwrite: bool = False
    workers: int = 1
    compress_level: int = 1
    verify_all: bool = False

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Settings:
        """Take the settings from the command line."""
        return cls(
            out=Path(arguments.out),
            overwrite=arguments.overwrite,
            workers=arguments.workers,
            compress_level=arguments.compress_level,
            verify_all=arguments.verify == "all",
        )


def identity_of(key: str, how: str, sources: Iterable[str | Path] = ()) -> str:
    """Return a digest of a job: its key, how its records are made, and size and time of its source files.

    Raises:
        DataError: for a source that is not there.
    """
    parts = [key, how]
    for source in sources:
        try:
            status = os.stat(source)
        except OSError as error:
            raise DataError(f"{source}: cannot be read ({error.strerror})") from error
        parts += [os.path.basename(source), str(status.st_size), str(status.st_mtime_ns)]
    return hashlib.blake2b("\0".join(parts).encode("utf-8"), digest_size=16).hexdigest()


def write_lmdb(name: str, jobs: list[RecordJob], settings: Settings, by_processes: bool = False) -> None:
    """Write one LMDB; see :func:`write_lmdbs`."""
    write_lmdbs([name], jobs, settings, by_processes)


def write_lmdbs(names: Sequence[str], jobs: list[RecordJob], settings: Settings, by_processes: bool = False) -> None:
    """Write one or more LMDBs in ``settings.out`` from the same jobs.

    LMDBs that are whole and came from the same jobs are left as they are.

    Args:
        names: of the LMDBs; where there are several, each job returns a tuple with as many lists of records.
        jobs: one for each source image.
        settings: of the command.
        by_processes: for jobs that spend their time in Python, which threads would not speed up; they must pickle.

    Raises:
        DataError: when an LMDB exists and came from other sources or settings (and ``overwrite`` is not set), a source
            cannot be used, or the disk is full. What was done stays for the next run.
    """
    digest = origin_digest(job.identity for job in jobs)
    wanted = [index for index, name in enumerate(names) if not _is_whole(settings.out / name, digest, settings)]
    if not wanted:
        return
    with contextlib.ExitStack() as stack:
        writers = {i: stack.enter_context(LmdbWriter(settings.out / names[i], settings.overwrite)) for i in wanted}
        present = {index: writer.reuse(job.identity for job in jobs) for index, writer in writers.items()}
        todo = [job for job in jobs if any(job.identity not in there for there in present.values())]
        title = ", ".join(names[index] for index in wanted)
        if len(todo) < len(jobs):
            tqdm.write(f"{title}: going on from an interrupted run, {len(jobs) - len(todo)} of {len(jobs)} are there")
        started = time.perf_counter()
        with tqdm(
            total=len(jobs), initial=len(jobs) - len(todo), desc=title, unit=" images", dynamic_ncols=True
        ) as bar:
            for job, lists in ordered_map(_make, todo, settings.workers, by_processes):
                for index, writer in writers.items():
                    if job.identity not in present[index]:
                        writer.put(job.identity, lists[index])
                bar.update()
        rate = len(todo) / (time.perf_counter() - started)
        for writer in writers.values():
            with tqdm(desc=f"{writer.path.name}: verifying", unit=" records", dynamic_ncols=True, leave=False) as bar:
                count = writer.finish(digest, settings.verify_all, bar.update)
            tqdm.write(f"{writer.path}: {count} records from {len(jobs)} images, verified; {rate:.1f} images/s")


def ordered_map(
    function: Callable[[Item], Result], items: list[Item], workers: int, by_processes: bool = False
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``, computed only a few items ahead.

    The first exception ends it; work that has not started by then is dropped.

    Args:
        function: is applied to every item.
        items: what it is applied to.
        workers: how many calls run at a time.
        by_processes: by processes, not threads; ``function``, items and results must pickle.
    """
    ahead: deque[Future[Result]] = deque()
    with _pool(workers, by_processes) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died, maybe for want of memory; try again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int, by_processes: bool) -> Executor:
    if by_processes and workers > 1:
        return ProcessPoolExecutor(workers, initializer=_end_with_parent)
    return ThreadPoolExecutor(workers)


def _end_with_parent() -> None:
    """Make a worker process end when its parent was killed, and leave Ctrl-C to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if parent is not None:
            parent.join()  # os.getppid() may be that of Python's fork server
            os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=watch, daemon=True).start()


def _make(job: RecordJob) -> tuple[RecordJob, tuple[list[Record], ...]]:
    made = job.make()
    return job, made if isinstance(made, tuple) else (made,)


def _is_whole(path: Path, digest: str, settings: Settings) -> bool:
    whole = path.exists() and not settings.overwrite and read_origin(path) == digest
    if whole:
        tqdm.write(f"{path}: whole, and made from the same source; left as it is (--overwrite makes it anew)")
    return whole
