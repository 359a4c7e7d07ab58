"""Running a tool in this process as its command line would, and judging how it ended."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from d2sm_plugin.__main__ import COMMANDS
from d2sm_plugin.cli import run_tool


class Hang(BaseException):
    """Raised in a tool that takes too long; no handler of ordinary errors stops it."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: the exit status.
        text: what it wrote to both streams.
        crash: the traceback of an exception that left the tool; None where none did.
        hung: whether it was stopped because it took too long.
    """

    status: int
    text: str
    crash: str | None = None
    hung: bool = False

    def error_lines(self) -> list[str]:
        """The lines that say what is wrong."""
        return [line for line in self.text.splitlines() if line.startswith(("error: ", "left out: "))]


def run(command: str, arguments: Sequence[object], folder: Path, seconds: float = 30) -> Outcome:
    """Run a command of ``d2sm`` in a folder.

    Args:
        command: its name.
        arguments: its arguments.
        folder: working directory.
        seconds: of the processor after which it counts as hung.
    """
    streams = io.StringIO()
    main = importlib.import_module(f"d2sm_plugin.{COMMANDS[command].module}").main
    redirected = contextlib.redirect_stdout(streams), contextlib.redirect_stderr(streams)
    with _like_a_process(folder, command, seconds), redirected[0], redirected[1]:
        try:
            run_tool(lambda _: main([str(argument) for argument in arguments]))
        except SystemExit as leaving:
            return Outcome(_status(leaving), streams.getvalue())
        except Hang:
            return Outcome(-1, streams.getvalue(), traceback.format_exc(), hung=True)
        except BaseException:  # noqa: BLE001  # whatever leaves a tool is what is looked for
            return Outcome(1, streams.getvalue(), traceback.format_exc())
    return Outcome(0, streams.getvalue())


def leftovers(folder: Path) -> list[str]:
    """Files that are not whole: unfinished ones, and those that their own readers refuse."""
    collected = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        kept = ".lmdb.partial" in name  # kept on purpose, for the next run to go on from
        if not kept and path.name.endswith((".partial", ".part", ".tmp")):
            collected.append(name)
    return collected


@contextlib.contextmanager
def _like_a_process(folder: Path, command: str, seconds: float) -> Iterator[None]:
    """Give a tool its folder, name and time, and take back what it changed in the process."""
    before, argv, threads = os.getcwd(), sys.argv, torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logger = logging.getLogger("basicsr")

    def too_long(*_: object) -> None:
        raise Hang

    # What computes for ever shows by the processor's time, what waits for ever by the clock (slow when busy).
    limits = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 20 * seconds)}
    alarms = {number: signal.signal(number, too_long) for number in limits}
    for timer, limit in limits.values():
        signal.setitimer(timer, limit)
    os.chdir(folder)
    sys.argv = [f"d2sm {command}"]
    try:
        yield
    finally:
        for number, (timer, _) in limits.items():
            signal.setitimer(timer, 0)
            signal.signal(number, alarms[number])
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.chdir(before)
        sys.argv = argv
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)


def _status(leaving: SystemExit) -> int:
    return leaving.code if isinstance(leaving.code, int) else 1 if leaving.code else 0
