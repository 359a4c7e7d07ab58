"""A training run, new or continued."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from d2sm_plugin.blocks import read_block
from d2sm_plugin.errors import CheckpointError, D2SMError, OptionError, OtherRankError, TrainingError
from d2sm_plugin.files import reading_again
from d2sm_plugin.loggers.interface import Run
from d2sm_plugin.metrics.better import lower_is_better
from d2sm_plugin.models.data_check import check_training_sample
from d2sm_plugin.options.data_sets import training_blocks
from d2sm_plugin.options.schema import LoggerOptions, ValOptions
from d2sm_plugin.pipeline.best import BestMetrics
from d2sm_plugin.pipeline.build import build_model
from d2sm_plugin.pipeline.checkpoint import CheckpointStore, describe_networks, read_state
from d2sm_plugin.pipeline.distributed import on_any_rank, on_first_rank
from d2sm_plugin.pipeline.experiment import Folder, versions
from d2sm_plugin.pipeline.image_records import RECORDS, write_records
from d2sm_plugin.pipeline.interrupt import DeadWorkersWait, StopSignals
from d2sm_plugin.pipeline.loaders import TrainBatches, build_evaluation_loaders
from d2sm_plugin.pipeline.metrics_file import MetricsFile, Results
from d2sm_plugin.pipeline.random_state import restore_random_state, seed_everything
from d2sm_plugin.pipeline.report import describe_model, result_lines
from d2sm_plugin.pipeline.resume import ResumeChanges, kept_options
from d2sm_plugin.pipeline.run_log import log_to_file, log_traceback, run_log
from d2sm_plugin.pipeline.run_loggers import build_loggers
from d2sm_plugin.pipeline.state_saver import StateSaver
from d2sm_plugin.pipeline.step_log import StepLog
from d2sm_plugin.pipeline.validation import Evaluator


class TrainingRun:
    """One training run, new or continued.

    Data and model are built before any folder is made: a mistake in the options leaves nothing behind. However the run
    ends, the state of its last step is saved first, if the weights are sound.

    Args:
        options: validated options with the entries of :func:`start_processes`.
        option_file: kept with the results.
        auto_resume: continue from the newest checkpoint of a run of that name, if there is one.
    """

    def __init__(self, options: dict[str, Any], option_file: str | Path, auto_resume: bool) -> None:
        self.options = options
        self.val = read_block(ValOptions, options["val"], "val")
        self.logging = read_block(LoggerOptions, options["logger"], "logger")
        self.kept_options = deepcopy(kept_options(options))
        self.option_file = option_file
        self.auto_resume = auto_resume
        self.rank, self.world_size = options["rank"], options["world_size"]
        self.folder = Folder(options["path"]["experiments_root"], options["name"])
        self.store = CheckpointStore(
            self.folder.path,
            self.logging.keep_checkpoints,
            f".{self.logging.weights_format}",
            describe_networks(options),
        )
        self.done = 0
        seed_everything(options["manual_seed"])
        torch.backends.cudnn.benchmark = not options["deterministic"]
        if options["deterministic"]:
            torch.use_deterministic_algorithms(True, warn_only=True)

    def train(self) -> bool:
        """Train to the end, or until SIGTERM, SIGHUP or Ctrl-C.

        Returns:
            Whether the end was reached.

        Raises:
            D2SMError: for mistakes in options, data or checkpoints, before training starts; later for pictures that do
                not decode, foreign code, losses that stay non-finite and files that cannot be written.
        """
        with run_log(self.rank == 0) as self.logger, closing(self.folder):
            try:
                self._start()
                with closing(self.loggers), StopSignals() as self.signals:
                    self.loggers.completed = self._train()
                    return self.loggers.completed
            except Exception as error:
                log_traceback(error)
                raise

    # -------------------------------------------------------------------------------------------- start and resume

    def _start(self) -> None:
        """Build everything, continue where there is something to continue, and only then make the run's folder."""
        self.loggers = build_loggers(self.logging, self.options["name"], self.rank == 0)
        state, changes = self._state_to_continue(), None
        if state is not None:
            with reading_again(str(self.resume_state), "continue from an earlier one"):
                changes = ResumeChanges(state.get("options", self.kept_options), self.kept_options, state["iter"])
            self.options["path"] |= {"pretrain_network_g": None, "pretrain_network_d": None}  # they are in it
        self._build(state["drawn"] if state is not None else 0)
        if state is not None and changes is not None:
            self._continue_from(state, changes)
        on_first_rank(lambda: self._make_folder(resume=state is not None))
        self.metrics = MetricsFile(self.folder.metrics_file)
        self.best = BestMetrics(lower_is_better(self.val.metrics, self.model.measures), self.metrics.rows)
        self._describe(changes)
        run = Run(self.options["name"], self.folder.path, self.folder.tensorboard, self.kept_options, self.done + 1)
        on_first_rank(lambda: self.loggers.start(run))

    def _make_folder(self, resume: bool) -> None:
        self.folder.start(self.option_file, self.options, resume)
        log_to_file(self.folder.path, "train", self.options["name"])
        if resume:
            self.store.clear_up(self.done, list(self.model.networks()), self.logger.warning)
            if MetricsFile(self.folder.metrics_file).forget_after(self.done):
                (self.folder.path / RECORDS).unlink(missing_ok=True)

    def _state_to_continue(self) -> dict[str, Any] | None:
        self.resume_state: Path | None = None
        if self.options["path"]["resume_state"]:
            self.resume_state = Path(self.options["path"]["resume_state"]).expanduser()
        if self.auto_resume and self.store.latest_state() is not None:
            on_first_rank(self.folder.lock)
            self.resume_state, problems = self.store.newest_whole()
            for problem in problems:
                self.logger.warning(f"Passed over: {problem}")
        return read_state(self.resume_state) if self.resume_state is not None else None

    def _build(self, drawn: int) -> None:
        options, self.drawn = self.options, drawn
        blocks, pin_memory = training_blocks(options["datasets"]), options["num_gpu"] > 0
        self.data = TrainBatches(blocks, options["manual_seed"], self.rank, self.world_size, drawn, pin_memory)
        sets = build_evaluation_loaders(options["datasets"], ("val",), self.rank, self.world_size)
        self.model = build_model(options)
        self.saver = StateSaver(self.store, self.model, self.kept_options, self.rank, self.logger)
        self.evaluator = Evaluator(options, sets, self.folder.visualization, False, self.model.device)
        check_training_sample(self.model, self.data.first_sample())
        self.evaluator.try_sets(self.model)
        seed_everything(options["manual_seed"] + self.rank)

    def _continue_from(self, state: Mapping[str, Any], changes: ResumeChanges) -> None:
        assert self.resume_state is not None
        self.store.load(self.resume_state, self.model.networks())
        states = state["random"]
        try:
            self.model.load_training_state(state, changes.new_schedule)
            restore_random_state(states[self.rank if self.rank < len(states) else 0])
        except (LookupError, ValueError, RuntimeError, TypeError, AttributeError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.resume_state}: it does not fit this training ({reason}); start a new run from its weights "
                f"(path.pretrain_network_g)"
            ) from error
        self.done = self.saver.saved = state["iter"]

    def _describe(self, changes: ResumeChanges | None) -> None:
        sizes = f"{self.data.num_samples}; joint batch: {self.data.joint_batch} x {self.model.train_block.accumulate}"
        sets = f"Training images: {sizes}; validation sets: {', '.join(self.evaluator.loaders) or 'none'}"
        lines = [versions(), *self.options["notes"], describe_model(self.model, self.world_size), sets]
        if changes is not None:
            lines += [f"Continuing from {self.resume_state}, step {self.done:,}.", *changes.lines()]
        for line in lines:
            self.logger.info(line)

    def _train(self) -> bool:
        total = self.model.train_block.total_iter
        try:
            if self.done and self._validation_due(self.done) and not self.metrics.has(self.done):
                self._validate(self.done)
            elif self.done:
                self._end_where_no_longer_better()
            if self.done < total:
                self._loop(total)
        except _NoLongerBetter:
            self.saver.save(self.done, self.drawn)
            self.logger.info(
                f"End of training after step {self.done:,}: {self.val.best_of[0]} was at its best "
                f"{self.val.patience} validations ago (val.patience)."
            )
            return True
        except _AskedToStop:
            self.saver.save(self.done, self.drawn)
            self.logger.info(f"Stopped after step {self.done:,} as asked; continue with --auto_resume.")
            return False
        except Exception:
            self.saver.rescue(self.done, self.drawn)
            raise
        self.logger.info(f"End of training: {self.folder.path}")
        return True

    def _loop(self, total: int) -> None:
        every, warmup = self.logging.save_checkpoint_freq, self.model.train_block.warmup_iter
        log = StepLog(self.options, self.done, self.loggers, self.rank == 0)
        workers = DeadWorkersWait()
        stream = closing(iter(self.data))  # its workers end with the loop, however that ends
        with logging_redirect_tqdm([self.logger]), log.bar, workers, stream as batches:
            group = self._fetch(batches, log)
            workers.from_now_on()
            for step in range(self.done + 1, total + 1):
                self.model.update_learning_rate(step, warmup_iter=warmup)
                self._step(group, step)
                log.step(step, self.data.epoch, self.model)
                if step < total:
                    group = self._fetch(batches, log)
                if step % every == 0 or step == total:
                    self.saver.save(step, self.drawn)
                if self._validation_due(step):
                    self._validate(step)
                    log.pause()

    def _fetch(self, batches: Iterator[dict[str, Any]], log: StepLog) -> list[dict[str, Any]]:
        """Return the mini-batches of the next step, unless a rank has none or is asked to stop: then no rank goes on.

        They are fetched before the last step is saved, so that nothing is lost where there are none.
        """
        failure: D2SMError | None = None
        group: list[dict[str, Any]] = []
        with log.waiting_for_data():
            try:
                group = [next(batches) for _ in range(self.model.train_block.accumulate)]
            except D2SMError as error:
                failure = error
        failed, asked = on_any_rank([failure is not None, self.signals.asked], self.model.device)
        if failed:
            self.saver.rescue(self.done, self.drawn, together=True)
            raise failure or OtherRankError("another process has no batch for the next step")
        if asked:
            raise _AskedToStop
        return group

    def _step(self, group: list[dict[str, Any]], step: int) -> None:
        try:
            self.model.train_step(group, step)
        except torch.OutOfMemoryError as error:
            advice = (
                "lower datasets.train.batch_size_per_gpu (and raise train.accumulate), gt_size, or the objective's "
                "patches.max_patches; or set train.amp: bf16"
            )
            raise TrainingError(f"the GPU is out of memory: {advice} ({str(error).splitlines()[0]})") from error
        self.done, self.drawn = step, self.data.drawn

    def _asked_to_stop(self) -> bool:
        return on_any_rank([self.signals.asked], self.model.device)[0]

    # ----------------------------------------------------------------------------------------------------- measuring

    def _validation_due(self, step: int) -> bool:
        every = self.val.val_freq
        return bool(self.evaluator.loaders) and (
            step == self.model.train_block.total_iter or (every is not None and step % every == 0)
        )

    def _validate(self, step: int) -> None:
        """Measure the validation sets; the rows of all of them, written last and at once, say that it is complete."""
        results = self.evaluator.run(self.model, step, self._asked_to_stop)
        if results is None:
            raise _AskedToStop
        on_first_rank(lambda: self._keep_results(step, results))
        self._end_where_no_longer_better()

    def _end_where_no_longer_better(self) -> None:
        """Leave the training where the metric has not been better for ``val.patience`` validations."""
        if self.val.patience is None:
            return
        since = self.best.since.get((next(iter(self.evaluator.loaders)), self.val.best_of[0]), 0)
        if on_any_rank([since >= self.val.patience], self.model.device)[0]:
            raise _NoLongerBetter

    def _keep_results(self, step: int, results: Results) -> None:
        improved = self.best.update(step, results)
        first = next(iter(results))
        for wanted in self.val.best_of:
            if wanted not in results[first][1]:
                raise OptionError(f"val.save_best: no metric '{wanted}'; measured: {', '.join(results[first][1])}")
            if (first, wanted) in improved:
                self.saver.refuse_damage(step)
                for label, wrapped in self.model.networks().items():
                    self.store.save_network(label, f"best_{wanted.replace('/', '_')}", wrapped, step)
        write_records(self.folder.path / RECORDS, self.evaluator.by_image, self.evaluator.class_names)
        self.metrics.add(step, results)
        values = {}
        for name, (_, metrics) in results.items():
            for metric, value in metrics.items():
                values[f"metrics/{name}/{metric}"] = value
        self.loggers.scalars(values, step)
        self.loggers.pictures(self.folder.visualization, step, self.logging.max_images)
        for line in result_lines(results, self.best):
            self.logger.info(line)


class _NoLongerBetter(Exception):  # noqa: N818  # no error
    """Ends a training early."""


class _AskedToStop(Exception):  # noqa: N818  # no error
    """Leaves a training in order."""
