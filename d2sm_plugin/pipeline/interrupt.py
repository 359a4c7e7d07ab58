"""Leaving a run in order when it is asked to stop."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

#: Signals that ask for an end, where the system has them: a scheduler, Ctrl-C, a terminal that closes.
_ASKING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class StopSignals:
    """Notice of SIGTERM, SIGINT (Ctrl-C) and SIGHUP in place of a sudden death, so that the step ends and is saved.

    A second signal of the same kind acts at once, as usual. SIGHUP stays ignored where it is (``nohup``). Once it has
    come, what is printed to the terminal goes nowhere, as there is none any more.

    Attributes:
        asked: whether one has come.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopSignals:
        self._before = {
            number: signal.signal(number, self._note)
            for number in _ASKING
            if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._before[signal.Signals(number)])
        if signal.Signals(number).name == "SIGHUP":
            _leave_the_terminal()


class DeadWorkersWait:
    """Guard that keeps torch from raising the death of a loader's worker wherever the process is at the moment.

    torch raises it out of a handler of SIGCHLD, which may be half-way through an update of weights. Without the
    handler it is noticed all the same, within seconds, where the batch of that worker is awaited.
    """

    def __enter__(self) -> None:
        self._before: Callable[[int, FrameType | None], Any] | int | None = None

    def from_now_on(self) -> None:
        """Take the handler away, which torch has set with its first worker."""
        if hasattr(signal, "SIGCHLD"):
            self._before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGCHLD, self._before)


def _leave_the_terminal() -> None:
    """Send what is printed nowhere, where it goes to a terminal that is gone: writing to it would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        try:
            os.ttyname(number)
        except OSError as error:
            if error.errno == errno.EIO:
                os.dup2(nowhere, number)
    os.close(nowhere)
