"""Saving the state of a training: once for each step, and only where its weights are sound."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from d2sm_plugin.errors import TrainingError
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.pipeline.checkpoint import CheckpointStore
from d2sm_plugin.pipeline.distributed import gather_objects, on_first_rank
from d2sm_plugin.pipeline.random_state import random_state


class StateSaver:
    """Writer of networks, optimisers, objectives, random generators and the number of draws after a step.

    Args:
        store: where checkpoints are.
        model: whose state is saved.
        kept_options: the options that a continued run is compared with.
        rank: of this process.
        logger: of the run.

    Attributes:
        saved: the step whose state was saved last, or was tried to.
    """

    def __init__(
        self,
        store: CheckpointStore,
        model: D2SMModel,
        kept_options: Mapping[str, Any],
        rank: int,
        logger: logging.Logger,
    ) -> None:
        self.store, self.model, self.kept_options = store, model, kept_options
        self.rank, self.logger = rank, logger
        self.saved = 0

    def save(self, step: int, drawn: int) -> None:
        """Save the state after a step, on all ranks together.

        Args:
            step: number of the step.
            drawn: samples of the training set that were drawn up to it.

        Raises:
            TrainingError: when weights are not finite; they are not saved.
            CheckpointError: when it cannot be written.
        """
        if self.saved == step:
            return
        self.saved = step  # tried once
        self.refuse_damage(step)
        states = gather_objects(random_state())
        on_first_rank(lambda: self._write(step, drawn, states))

    def rescue(self, step: int, drawn: int, together: bool = False) -> None:
        """Save the state after the last step, if it is sound, before an error ends the run.

        Unless all ranks do so ``together``, others may wait elsewhere, and the first one saves by itself.
        """
        if self.saved == step or (self.rank != 0 and not together):
            return
        try:
            if together:
                self.save(step, drawn)
            else:
                self.refuse_damage(step)
                self._write(step, drawn, [random_state()])
        except Exception as error:  # noqa: BLE001  # the one that ends the run is to be seen, whatever this is
            self.logger.error(f"The state after step {step:,} is lost: {' '.join(str(error).split())}")

    def refuse_damage(self, step: int) -> None:
        """Raise a TrainingError when weights or an optimiser's state are not finite."""
        damage = self.model.damage()
        if damage is not None:
            newest = self.store.latest_state() or "none"
            raise TrainingError(
                f"step {step:,} is not saved: {damage}; the newest checkpoint: {newest}. Lower the learning rate, or "
                f"set train.grad_clip"
            )

    def _write(self, step: int, drawn: int, random_states: list[Any]) -> None:
        run_state = {"random": random_states, "drawn": drawn, "options": self.kept_options}
        self.store.save(step, self.model.networks(), {**self.model.training_state(), **run_state})
        self.logger.info(f"Checkpoint of step {step:,} saved.")
