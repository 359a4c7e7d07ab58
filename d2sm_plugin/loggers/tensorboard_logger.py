"""Values and pictures for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.files import cannot_write
from d2sm_plugin.loggers.interface import Run
from d2sm_plugin.registry import LOGGER_REGISTRY, register


@register(LOGGER_REGISTRY)
class TensorBoardLogger:
    """TensorBoard's event files, ``tb_logger/NAME`` as BasicSR's. What an earlier part wrote of later steps is hidden.

    Args:
        folder: for the files; None for the usual one.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def start(self, run: Run) -> None:
        """Open a file.

        Raises:
            DataError: when the folder cannot be made.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.place = run.curves if self.folder is None else Path(self.folder)
        with self._writing():
            self.writer = SummaryWriter(str(self.place), purge_step=run.first_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        with self._writing():
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def images(self, images: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Add pictures."""
        with self._writing():
            for name, image in images.items():
                self.writer.add_image(name, image, step, dataformats="HWC")

    def finish(self, completed: bool) -> None:
        """Write what is left."""
        with self._writing():
            self.writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.place, error) from error
