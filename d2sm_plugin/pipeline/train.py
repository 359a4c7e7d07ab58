"""Training runs: ``python tools/train.py -opt options/train_ffdnet_d2sm.yml``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import AvgTimer, MessageLogger
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from d2sm_plugin.arguments import Parser
from d2sm_plugin.custom_imports import add_custom_import
from d2sm_plugin.errors import OptionError, TrainingError
from d2sm_plugin.options.data_sets import training_blocks
from d2sm_plugin.options.reader import read_options
from d2sm_plugin.pipeline.best import BestMetrics
from d2sm_plugin.pipeline.build import build_model
from d2sm_plugin.pipeline.checkpoint import CheckpointStore, read_state
from d2sm_plugin.pipeline.distributed import (
    any_rank,
    gather_objects,
    start_processes,
    stop_processes,
    wait_for_all,
)
from d2sm_plugin.pipeline.experiment import Folder, log_to_file, open_tensorboard, run_log, versions
from d2sm_plugin.pipeline.interrupt import StopSignals
from d2sm_plugin.pipeline.loaders import TrainBatches, build_evaluation_loaders
from d2sm_plugin.pipeline.random_state import random_state, restore_random_state, seed_everything
from d2sm_plugin.pipeline.report import result_lines
from d2sm_plugin.pipeline.validation import Evaluator

_DEBUG_FREQ = 8  # validation and checkpoints of --debug, as in BasicSR


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; see ``--help``."""
    parser = Parser(description="Train a restoration network with the objectives of an option file.")
    add_custom_import(parser)
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file, or name of a shipped one")
    parser.add_argument("--launcher", choices=["none", "pytorch"], default="none", help="pytorch: under torchrun")
    parser.add_argument("--auto_resume", action="store_true", help="continue the run of that name where it stopped")
    parser.add_argument("--debug", action="store_true", help="validate and save every 8 steps, log every step")
    parser.add_argument(
        "--force_yml", nargs="+", default=[], metavar="a:b=c", help="override options, e.g. train:total_iter=100"
    )
    args = parser.parse_args(argv)
    options = read_options(args.opt, is_train=True, force=args.force_yml)
    if args.debug:
        options = for_debugging(options)
    options |= start_processes(args.launcher, options["num_gpu"])
    try:
        run = TrainingRun(options, args.opt, args.auto_resume)
        run.train()
    finally:
        stop_processes()
    return 0


def for_debugging(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with every step logged and frequent validation and checkpoints, under ``debug_NAME``."""
    changed = deepcopy(dict(options))
    if not changed["name"].startswith("debug"):
        changed["name"] = f"debug_{changed['name']}"
    changed["val"]["val_freq"] = _DEBUG_FREQ
    changed["logger"] |= {"print_freq": 1, "save_checkpoint_freq": _DEBUG_FREQ}
    return changed


class TrainingRun:
    """One training run, new or continued.

    Data and model are built before any folder is made, so that a mistake in the options leaves nothing behind.

    Args:
        options: validated options with the entries of :func:`start_processes`.
        option_file: kept with the results.
        auto_resume: continue from the newest checkpoint of a run of that name, if there is one.
    """

    def __init__(self, options: dict[str, Any], option_file: str | Path, auto_resume: bool) -> None:
        self.options = options
        self.option_file = option_file
        self.rank, self.world_size = options["rank"], options["world_size"]
        self.folder = Folder(options["path"]["experiments_root"], options["name"])
        self.store = CheckpointStore(self.folder.path, options["logger"]["keep_checkpoints"])
        self.resume_state = self._find_resume_state(auto_resume)
        if self.resume_state is not None:
            options["path"]["pretrain_network_g"] = None  # the checkpoint holds the networks
        seed_everything(options["manual_seed"])
        torch.backends.cudnn.benchmark = not options["deterministic"]
        if options["deterministic"]:
            torch.use_deterministic_algorithms(True, warn_only=True)

    def train(self) -> None:
        """Train to the end, or until SIGTERM or Ctrl-C; the state is saved either way.

        Raises:
            D2SMError: for any mistake in options, data or checkpoints, before training starts; later for losses that
                stay non-finite and for checkpoints that cannot be written.
        """
        with run_log(self.rank == 0) as self.logger:
            state = self._build()
            if self.rank == 0:
                self.folder.start(self.option_file, self.options, resume=state is not None)
                name = f"train_{self.options['name']}_{time.strftime('%Y%m%d_%H%M%S')}.log"
                log_to_file(self.logger, self.folder.path / name)
            wait_for_all()
            self._describe()
            if state is not None:
                self._continue_from(state)
            else:
                seed_everything(self.options["manual_seed"] + self.rank)
            self.best = BestMetrics(self.options["val"]["metrics"], self.folder.metrics_file)
            first = self.start_iter + 1
            self.tensorboard = open_tensorboard(self.folder, self.options, first) if self.rank == 0 else None
            try:
                self._loop(self.tensorboard)
            finally:
                if self.tensorboard is not None:
                    self.tensorboard.close()

    # -------------------------------------------------------------------------------------------- start and resume

    def _find_resume_state(self, auto_resume: bool) -> Path | None:
        given = self.options["path"]["resume_state"]
        if auto_resume and (newest := self.store.latest_state()) is not None:
            return newest
        return Path(given).expanduser() if given else None

    def _build(self) -> dict[str, Any] | None:
        """Build data, model and evaluator; returns the state to continue from, if any."""
        options = self.options
        state = read_state(self.resume_state) if self.resume_state is not None else None
        self.start_iter = state["iter"] if state else 0
        self.data = TrainBatches(
            training_blocks(options["datasets"]),
            options["manual_seed"],
            self.rank,
            self.world_size,
            drawn=state["drawn"] if state else 0,
            pin_memory=options["num_gpu"] > 0,
        )
        loaders = build_evaluation_loaders(options["datasets"], ("val",), self.rank, self.world_size)
        self.model = build_model(options)
        self.evaluator = Evaluator(options, loaders, self.folder.visualization, False, self.model.device)
        self.evaluator.try_metrics()
        return state

    def _describe(self) -> None:
        network = self.model.net_g
        objectives = [
            key.removesuffix("_opt") for key, block in self.options["train"].items() if _is_objective(key, block)
        ]
        parameters = sum(p.numel() for p in network.parameters())
        for line in (versions(), *self.options["notes"]):
            self.logger.info(line)
        self.logger.info(
            f"{type(self.model).__name__} with {type(network).__name__}, {parameters:,} parameters, on "
            f"{self.model.device}, {self.world_size} process(es); objectives: {', '.join(objectives)}"
        )
        self.logger.info(
            f"Training images: {self.data.num_samples}; joint batch: {self.data.joint_batch} x "
            f"{self.options['train']['accumulate']}; validation sets: {', '.join(self.evaluator.loaders) or 'none'}"
        )

    def _continue_from(self, state: Mapping[str, Any]) -> None:
        assert self.resume_state is not None
        self.store.load(self.resume_state, self.model.networks())
        self.model.load_training_state(state)
        mine = state["random"][self.rank] if self.rank < len(state["random"]) else state["random"][0]
        restore_random_state(mine)
        if self.rank == 0:
            self.folder.forget_metrics_after(state["iter"])
        wait_for_all()
        self.logger.info(f"Continuing from {self.resume_state}, step {state['iter']:,}.")

    # ------------------------------------------------------------------------------------------------------ the loop

    def _loop(self, tensorboard: SummaryWriter | None) -> None:
        options, train, log = self.options, self.options["train"], self.options["logger"]
        messages = MessageLogger(options, self.start_iter, tensorboard)
        messages.max_iters += 1  # it counts the steps left from the one before, which would be -1 at the end
        timer, data_timer = AvgTimer(), AvgTimer()
        bar = tqdm(
            total=train["total_iter"], initial=self.start_iter, unit="iter", disable=None if self.rank == 0 else True
        )
        if self.start_iter and self._validation_due(self.start_iter) and not self.best.measured(self.start_iter):
            self._validate(self.start_iter)
        stream = closing(iter(self.data))  # its workers end with the loop, however that ends
        with StopSignals() as signals, logging_redirect_tqdm([self.logger]), bar, stream as batches:
            for step in range(self.start_iter + 1, train["total_iter"] + 1):
                data_timer.start()
                self.model.update_learning_rate(step, warmup_iter=train["warmup_iter"])
                group = [next(batches) for _ in range(train["accumulate"])]
                data_timer.record()
                self._step(group, step)
                timer.record()
                bar.update()
                if step % log["print_freq"] == 0 or step == 1:
                    current = self.model.get_current_log()
                    lead = {"epoch": self.data.epoch, "iter": step, "lrs": self.model.get_current_learning_rate()}
                    times = {"time": timer.get_avg_time(), "data_time": data_timer.get_avg_time()}
                    messages({**lead, **times, **current})
                    bar.set_postfix({k: f"{v:.2e}" for k, v in current.items() if k.startswith("l_")}, refresh=False)
                stop = self._asked_to_stop(signals)
                if step % log["save_checkpoint_freq"] == 0 or stop or step == train["total_iter"]:
                    self._save(step)
                if stop and step < train["total_iter"]:
                    self.logger.info(f"Stopped at step {step:,} as asked; continue with --auto_resume.")
                    return
                if self._validation_due(step):
                    self._validate(step)
                    timer.start()
        self.logger.info(f"End of training: {self.folder.path}")

    def _step(self, group: list[dict[str, Any]], step: int) -> None:
        try:
            self.model.train_step(group, step)
        except torch.cuda.OutOfMemoryError as error:
            raise TrainingError(
                "the GPU is out of memory: lower datasets.train.batch_size_per_gpu (and raise train.accumulate), "
                "gt_size, or the objective's patches.max_patches; or set train.amp: bf16 "
                f"({str(error).splitlines()[0]})"
            ) from error

    def _asked_to_stop(self, signals: StopSignals) -> bool:
        """Whether any rank was asked; ranks agree, or one would wait for the others for ever."""
        if self.world_size == 1:
            return signals.asked
        return bool(any_rank(torch.tensor([int(signals.asked)], device=self.model.device)).item())

    def _save(self, step: int) -> None:
        states = gather_objects(random_state())
        if self.rank == 0:
            state = {**self.model.training_state(), "random": states, "drawn": self.data.drawn}
            self.store.save(step, self.model.networks(), state)
            self.logger.info(f"Checkpoint of step {step:,} saved.")
        wait_for_all()

    def _validation_due(self, step: int) -> bool:
        every = self.options["val"]["val_freq"]
        return bool(self.evaluator.loaders) and (
            step == self.options["train"]["total_iter"] or (every is not None and step % every == 0)
        )

    def _validate(self, step: int) -> None:
        results = self.evaluator.run(self.model, step)
        if self.rank != 0:
            return
        for name, (images, metrics) in results.items():
            self.folder.add_metrics(step, name, images, metrics)
            if self.tensorboard is not None:
                for metric, value in metrics.items():
                    self.tensorboard.add_scalar(f"metrics/{name}/{metric}", value, step)
        improved = self.best.update(step, results)
        for line in result_lines(results, self.best):
            self.logger.info(line)
        wanted = self.options["val"]["save_best"]
        if wanted is not None:
            first = next(iter(results))
            if wanted not in results[first][1]:
                raise OptionError(f"val.save_best: no metric '{wanted}'; measured: {', '.join(results[first][1])}")
            if (first, wanted) in improved:
                for label, wrapped in self.model.networks().items():
                    self.store.save_network(wrapped, self.store.models / f"{label}_best_{wanted.replace('/', '_')}.pth")


def _is_objective(key: str, block: object) -> bool:
    return key.endswith("_opt") and block is not None
