"""Curves of a run for TensorBoard, and by way of it for Weights & Biases."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.errors import DependencyError, OptionError
from d2sm_plugin.files import cannot_write
from d2sm_plugin.options.schema import LoggerOptions
from d2sm_plugin.pipeline.run_log import HOST_LOGGER


class Curves:
    """TensorBoard's writer. What it cannot write is said once, and the run goes on without: weights matter more.

    Args:
        folder: for the files; None draws no curves.
        first_step: curves of an earlier run from this step on go.

    Raises:
        DataError: when the folder cannot be made.
    """

    def __init__(self, folder: Path | None, first_step: int) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        if folder is not None:
            try:
                self._writer = SummaryWriter(str(folder), purge_step=first_step)
            except OSError as error:
                raise cannot_write(folder, error) from error

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        try:
            if self._writer is not None:
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            self._tell(error)

    def close(self) -> None:
        """Write what is left."""
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        self._writer = None
        told = f"{cannot_write(str(self._folder), error)}; the run goes on without curves"
        logging.getLogger(HOST_LOGGER).error(told)


def check_curves(logger: LoggerOptions) -> None:
    """Check that the curves which the ``logger`` block asks for can be drawn.

    Raises:
        OptionError: for Weights & Biases without TensorBoard, which it reads.
        DependencyError: when its package is missing.
    """
    if not uses_wandb(logger):
        return
    if not logger.use_tb_logger:
        raise OptionError("logger.wandb: it reads TensorBoard's curves; set logger.use_tb_logger: true")
    if importlib.util.find_spec("wandb") is None:
        raise DependencyError("logger.wandb.project: this needs wandb: pip install wandb, or leave project empty (~)")


def uses_wandb(logger: LoggerOptions) -> bool:
    """Tell whether the ``logger`` block asks for Weights & Biases: not with an empty ``project``, as in BasicSR."""
    return bool((logger.wandb or {}).get("project"))


def open_curves(folder: Path, logger: LoggerOptions, options: Mapping[str, Any], first_step: int) -> Curves:
    """Return the writer of the run's curves; it draws none where they are switched off, and on ranks but the first."""
    if not logger.use_tb_logger or options["name"].startswith("debug") or options["rank"] != 0:
        return Curves(None, first_step)
    if uses_wandb(logger):
        from basicsr.utils.logger import init_wandb_logger

        with foreign_code("logger.wandb: wandb"):
            init_wandb_logger(options)
    return Curves(folder, first_step)
