"""Values and pictures for MLflow."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.extras import import_extra
from d2sm_plugin.loggers.interface import Run
from d2sm_plugin.registry import LOGGER_REGISTRY, register

_LONGEST = 500  # characters of a parameter's value
_BATCH = 100  # parameters that MLflow takes at once


@register(LOGGER_REGISTRY)
class MlflowLogger:
    """A run of MLflow. A continued training continues it; steps that are made again are there twice.

    Options are its parameters (``train.total_iter``), pictures its artifacts (``SET/KEY_STEP.png``).

    Args:
        experiment: name of MLflow's experiment; it is made where it is missing.
        tracking_uri: of the server or the store, such as ``sqlite:///mlflow.db``; None takes ``MLFLOW_TRACKING_URI``.
        run_id: of the run to continue; None continues that of an earlier part of the training, if there is one.

    Raises:
        DependencyError: when the package is missing.
    """

    def __init__(self, experiment: str, tracking_uri: str | None = None, run_id: str | None = None) -> None:
        self.experiment, self.tracking_uri, self.run_id = experiment, tracking_uri, run_id
        self.mlflow: Any = import_extra("mlflow", "logger.mlflow")

    def start(self, run: Run) -> str:
        """Begin or continue a run, and return its id."""
        self.client = self.mlflow.MlflowClient(self.tracking_uri)
        known = self.run_id or run.id
        if known is not None:
            self.client.update_run(known, status="RUNNING")
            self.id = known
            return known
        existing = self.client.get_experiment_by_name(self.experiment)
        place = self.client.create_experiment(self.experiment) if existing is None else existing.experiment_id
        self.id = str(self.client.create_run(place, run_name=run.name).info.run_id)
        parameters = [self.mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in _flat(run.options)]
        for start in range(0, len(parameters), _BATCH):
            self.client.log_batch(self.id, params=parameters[start : start + _BATCH])
        return self.id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send values; those that are not finite, which stores refuse, are left out."""
        now = round(1000 * time.time())
        points = [self.mlflow.entities.Metric(n, float(v), now, step) for n, v in values.items() if math.isfinite(v)]
        self.client.log_batch(self.id, metrics=points)

    def images(self, images: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        """Send pictures."""
        for name, image in images.items():
            self.client.log_image(self.id, image, artifact_file=f"{name}_{step}.png")

    def finish(self, completed: bool) -> None:
        """Mark the run as finished, or as one that did not reach its end."""
        self.client.set_terminated(self.id, "FINISHED" if completed else "KILLED")


def _flat(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield options by their paths, lists as they are."""
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value
