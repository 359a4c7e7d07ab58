"""The contract of a run's logger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Run:
    """A training that is about to start, or to go on.

    Attributes:
        name: of the run.
        folder: of the run, ``experiments/NAME``.
        curves: folder for TensorBoard's files.
        options: all of them, as plain values.
        first_step: the step that comes next; values of an earlier part from it on are made again.
        id: what :meth:`RunLogger.start` returned in an earlier part of the run; None in a new one.
    """

    name: str
    folder: Path
    curves: Path
    options: Mapping[str, Any]
    first_step: int
    id: str | None = None


class RunLogger(Protocol):
    """A place for values and pictures of a run, on its first process alone.

    What its methods raise is told once, and the run goes on without it; what :meth:`start` raises ends the run before
    its first step.
    """

    def start(self, run: Run) -> str | None:
        """Begin or continue a run, and return by what a continued one finds it again; None where nothing is needed."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take values by name: ``losses/l_pixel``, ``lr``, ``metrics/SET/psnr``."""

    def images(self, images: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Take pictures (H, W, 3) of RGB by name, ``SET/KEY``: input, restored and clean side by side."""

    def finish(self, completed: bool) -> None:
        """Write what is left; ``completed`` is false where the run was stopped or failed."""
