"""Values and pictures for Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.extras import import_extra
from d2sm_plugin.loggers.interface import Run
from d2sm_plugin.registry import LOGGER_REGISTRY, register


@register(LOGGER_REGISTRY)
class WandbLogger:
    """A run of Weights & Biases. A continued training continues it; steps that it has already are left as they are.

    Args:
        project: of Weights & Biases.
        resume_id: id of the run to continue; None continues that of an earlier part of the training, if there is one.
        settings: further arguments of ``wandb.init``: ``entity``, ``group``, ``tags``, ``mode: offline``.

    Raises:
        DependencyError: when the package is missing.
    """

    def __init__(self, project: str, resume_id: str | None = None, **settings: Any) -> None:
        self.project, self.resume_id, self.settings = project, resume_id, settings
        self.wandb: Any = import_extra("wandb", "logger.wandb")

    def start(self, run: Run) -> str:
        """Begin or continue a run, and return its id."""
        known = self.resume_id or run.id
        self.run = self.wandb.init(
            project=self.project, id=known, resume="allow" if known else None, name=run.name, config=dict(run.options),
            dir=str(run.folder), **{"settings": self.wandb.Settings(console="off"), **self.settings},
        )  # fmt: skip
        return str(self.run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send values."""
        self.run.log(dict(values), step=step)

    def images(self, images: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Send pictures."""
        self.run.log({name: self.wandb.Image(image) for name, image in images.items()}, step=step)

    def finish(self, completed: bool) -> None:
        """Send what is left, and mark a run that did not reach its end."""
        self.run.finish(exit_code=0 if completed else 1)
