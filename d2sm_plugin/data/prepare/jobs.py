"""Making an LMDB out of many small jobs: in parallel, with a progress bar, restartable."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
class Job:
    """The records that come from one source image.

    Attributes:
        identity: says what they are made from and how, see :func:`identity_of`; equal identity, equal records.
        make: reads, converts and encodes; raises DataError for a source that cannot be used.
    """

    identity: str
    make: Callable[[], list[Record]]


@dataclass(frozen=True)
class Settings:
    """What all subcommands share.

    Attributes:
        out: folder that receives the LMDBs.
        overwrite: replace LMDBs that exist.
        workers: threads that read, decode and encode (OpenCV lets go of the interpreter while it works).
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


def write_lmdb(name: str, jobs: list[Job], settings: Settings) -> int:
    """Write ``settings.out / name``, or leave it alone when it is whole and came from the same jobs.

    Returns:
        the number of records written by this call; 0 when there was nothing to do.

    Raises:
        DataError: when the LMDB exists and came from other sources or settings (and ``overwrite`` is not set), a
            source cannot be used, or the disk is full. What was done stays for the next run.
    """
    path = settings.out / name
    digest = origin_digest(job.identity for job in jobs)
    if path.exists() and not settings.overwrite and read_origin(path) == digest:
        tqdm.write(f"{path}: whole, and made from the same source; left as it is (--overwrite makes it anew)")
        return 0
    with LmdbWriter(path, settings.overwrite) as writer:
        present = writer.reuse(job.identity for job in jobs)
        if present:
            tqdm.write(f"{path}: going on from an interrupted run, {len(present)} of {len(jobs)} images are there")
        todo = [job for job in jobs if job.identity not in present]
        started = time.perf_counter()
        with tqdm(total=len(jobs), initial=len(present), desc=name, unit=" images", dynamic_ncols=True) as bar:
            for job, records in ordered_map(_make, todo, settings.workers):
                writer.put(job.identity, records)
                bar.update()
        rate = len(todo) / (time.perf_counter() - started)
        with tqdm(desc=f"{name}: verifying", unit=" records", dynamic_ncols=True, leave=False) as bar:
            count = writer.finish(digest, settings.verify_all, bar.update)
    tqdm.write(f"{path}: {count} records from {len(jobs)} images, verified; {rate:.1f} images/s")
    return count


def ordered_map(function: Callable[[Item], Result], items: list[Item], workers: int) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of ``items``, computed by threads, only a few items ahead.

    The first exception ends it; work that has not started by then is dropped.
    """
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make(job: Job) -> tuple[Job, list[Record]]:
    return job, job.make()
