"""Display of a training's steps: lines of the log, values for loggers, the progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from basicsr.utils import AvgTimer, MessageLogger
from tqdm import tqdm

from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.pipeline.run_loggers import RunLoggers


class StepLog:
    """Lines every ``logger.print_freq`` steps, and a progress bar.

    Args:
        options: of the run.
        start_iter: steps that were made before.
        loggers: which get the values of a line too.
        first_rank: whether this process shows anything.
    """

    def __init__(self, options: Mapping[str, Any], start_iter: int, loggers: RunLoggers, first_rank: bool) -> None:
        self.every = options["logger"]["print_freq"]
        self.loggers = loggers
        written = {**options, "logger": {**options["logger"], "use_tb_logger": False}}
        self.messages = MessageLogger(written, start_iter)
        self.messages.max_iters += 1  # it counts the steps left from the one before, which would be -1 at the end
        self.timer, self.data_timer = AvgTimer(), AvgTimer()
        total = options["train"]["total_iter"]
        self.bar = tqdm(total=total, initial=start_iter, unit="iter", disable=None if first_rank else True)

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Measure the time for which a step waits for its batches."""
        self.data_timer.start()
        yield
        self.data_timer.record()

    def step(self, step: int, epoch: int, model: D2SMModel) -> None:
        """Show that a step was made, and every so many steps its values; every rank calls it."""
        self.timer.record()
        self.bar.update()
        if step % self.every and step != 1:
            return
        current = model.get_current_log()
        lead = {"epoch": epoch, "iter": step, "lrs": model.get_current_learning_rate()}
        times = {"time": self.timer.get_avg_time(), "data_time": self.data_timer.get_avg_time()}
        self.messages({**lead, **times, **current})
        named = {f"losses/{name}" if name.startswith("l_") else name: value for name, value in current.items()}
        self.loggers.scalars({**named, "lr": lead["lrs"][0]}, step)
        self.bar.set_postfix({k: f"{v:.2e}" for k, v in current.items() if k.startswith("l_")}, refresh=False)

    def pause(self) -> None:
        """Leave out of the steps' times what was done since the last one."""
        self.timer.start()
