"""Leaving a run in order when it is asked to stop."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class StopSignals:
    """Notes SIGTERM and SIGINT (Ctrl-C) instead of dying of them, so that the step ends and a checkpoint is written.

    A second signal of the same kind acts at once, as usual.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, self._before[signal.Signals(number)])
