"""The loggers of a run, together: what one of them cannot do is said once, and the run goes on without it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.errors import D2SMError, OptionError
from d2sm_plugin.files import reading_again, write_json
from d2sm_plugin.loggers.interface import Run, RunLogger
from d2sm_plugin.options.schema import LoggerOptions
from d2sm_plugin.pipeline.pictures import read_sheet, sheets_of_step
from d2sm_plugin.pipeline.run_log import HOST_LOGGER
from d2sm_plugin.random_guard import untouched_random_state
from d2sm_plugin.registry import LOGGER_REGISTRY, build

_METHODS = ("start", "scalars", "images", "finish")
_IDS = "loggers.json"  # in the run's folder: name of the logger -> its id of the run


class RunLoggers:
    """Loggers by name. They are built at once, so that a missing package is told before anything starts.

    Args:
        blocks: name -> block with ``type``.

    Raises:
        D2SMError: when one of them cannot be built, or lacks a method.
    """

    def __init__(self, blocks: Mapping[str, Mapping[str, Any]]) -> None:
        self.loggers: dict[str, RunLogger] = {
            name: build(LOGGER_REGISTRY, block, f"logger.{name}") for name, block in blocks.items()
        }
        for name, logger in self.loggers.items():
            missing = [method for method in _METHODS if not callable(getattr(logger, method, None))]
            if missing:
                raise OptionError(
                    f"logger.{name}: {type(logger).__name__} has no method {', '.join(missing)}; a logger has "
                    f"{', '.join(_METHODS)}"
                )
        self.completed = False

    def start(self, run: Run) -> None:
        """Begin or continue the run with all of them; by the ids in its folder each finds its own again.

        Raises:
            DataError: when ids cannot be read or written.
            ForeignError: for whatever else a logger raises.
        """
        file = run.folder / _IDS
        ids = _read_ids(file) if run.first_step > 1 else {}
        plain = json.loads(json.dumps(run.options, default=str))
        started: dict[str, str | None] = {}
        try:
            for name, logger in self.loggers.items():
                with untouched_random_state(), foreign_code(f"logger.{name}: {type(logger).__name__}"):
                    known = logger.start(replace(run, options=deepcopy(plain), id=ids.get(name)))
                    if known is not None and not isinstance(known, str):
                        raise TypeError(f"start returned {type(known).__name__}, expected a text or None")
                    started[name] = known
        except D2SMError:
            self.loggers = {name: self.loggers[name] for name in started}
            self.close()
            raise
        kept = ids | {name: known for name, known in started.items() if known is not None}
        if kept != ids:
            write_json(file, kept)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Pass values to all of them."""
        self._pass_on(lambda logger: logger.scalars(dict(values), step))

    def pictures(self, folder: Path, step: int, most: int) -> None:
        """Pass the pictures of a validation to all of them.

        Args:
            folder: where they were written.
            step: of the training.
            most: number for each set.
        """
        if not self.loggers or not most:
            return
        images: dict[str, NDArray[np.uint8]] = {}
        counts: dict[str, int] = {}
        for name, key, path in sheets_of_step(folder, step):
            counts[name] = counts.get(name, 0) + 1
            if counts[name] <= most:
                images[f"{name}/{key}"] = read_sheet(path).pixels
        if images:
            self._pass_on(lambda logger: logger.images(dict(images), step))

    def close(self) -> None:
        """Let all of them finish."""
        self._pass_on(lambda logger: logger.finish(self.completed))

    def _pass_on(self, act: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self.loggers.items()):
            try:
                with untouched_random_state(), foreign_code(f"logger.{name}: {type(logger).__name__}"):
                    act(logger)
            except D2SMError as error:
                del self.loggers[name]
                logging.getLogger(HOST_LOGGER).error(f"{error}; the run goes on without this logger")


def build_loggers(logger: LoggerOptions, name: str, first_rank: bool) -> RunLoggers:
    """Return the loggers that the block ``logger`` asks for: none on other ranks, nor of runs called ``debug...``.

    Raises:
        D2SMError: when one of them cannot be built.
    """
    if not first_rank or name.startswith("debug"):
        return RunLoggers({})
    return RunLoggers(logger.blocks())


def _read_ids(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    with reading_again(file, "remove it; loggers then begin new runs"):
        return {str(name): str(known) for name, known in json.loads(file.read_text(encoding="utf-8")).items()}
