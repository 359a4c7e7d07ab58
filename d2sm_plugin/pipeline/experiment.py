"""The folder of a run, its log file and its TensorBoard curves, laid out as BasicSR does."""

from __future__ import annotations

import csv
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
import yaml
from basicsr.utils.logger import initialized_logger
from basicsr.version import __version__ as host_version
from torch.utils.tensorboard import SummaryWriter

from d2sm_plugin.errors import DataError
from d2sm_plugin.files import write_csv, write_whole
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.version import __version__

LOG_FORMAT = "%(asctime)s %(levelname)s: %(message)s"
HOST_LOGGER = "basicsr"  # the host's parts log here


class Folder:
    """The folder of one run and what is kept in it.

    Args:
        root: ``experiments`` or ``results``.
        name: of the run.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        self.path = Path(root).expanduser() / name
        self.visualization = self.path / "visualization"
        self.metrics_file = self.path / "metrics.csv"
        self.tensorboard = Path(root).expanduser().parent / "tb_logger" / name

    def start(self, option_file: str | Path, options: Mapping[str, Any], resume: bool) -> None:
        """Make the folder; one left by an earlier run of that name is put aside (``_archived_TIME``), as BasicSR does.

        The option file is kept as it was given, laid over those that it extends, and, as ``options.yml``, with every
        override and default filled in.

        Raises:
            DataError: when the folder cannot be made or written.
        """
        try:
            folders = [self.path, self.tensorboard] if options["is_train"] else [self.path]
            for folder in folders:
                if folder.exists() and not resume:
                    folder.rename(f"{folder}_archived_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() % 1000:03d}")
            self.path.mkdir(parents=True, exist_ok=True)
            file = read_option_file(option_file)
            header = f"# {time.asctime()}\n# {sys.argv[0]} {shlex.join(sys.argv[1:])}\n\n"
            write_whole(self.path / file.files[0].name, header + file.text())
            filled_in = yaml.safe_dump(dict(options), sort_keys=False, allow_unicode=True)
            write_whole(self.path / "options.yml", filled_in)
        except OSError as error:
            raise DataError(f"{self.path}: the folder of the run cannot be made ({error})") from error

    def add_metrics(self, iteration: int, dataset: str, images: int, metrics: Mapping[str, float]) -> None:
        """Append rows ``iter,dataset,images,metric,value`` to ``metrics.csv``."""
        new = not self.metrics_file.exists()
        with self.metrics_file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["iter", "dataset", "images", "metric", "value"])
            writer.writerows([iteration, dataset, images, name, repr(value)] for name, value in metrics.items())

    def forget_metrics_after(self, iteration: int) -> None:
        """Drop rows of later steps, which a continued run will write again."""
        if not self.metrics_file.exists():
            return
        with self.metrics_file.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        complete = [row for row in rows if len(row) == len(header) and int(row[0]) <= iteration]
        write_csv(self.metrics_file, header, complete)


@contextmanager
def run_log(first_rank: bool) -> Iterator[logging.Logger]:
    """Log to the terminal for the time of a run; :func:`log_to_file` adds the file once there is a folder for it.

    Args:
        first_rank: whether this process reports; the others log errors alone.
    """
    logger = logging.getLogger(HOST_LOGGER)
    initialized_logger[HOST_LOGGER] = True  # or the host would add handlers of its own
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO if first_rank else logging.ERROR)
    _add_handler(logger, logging.StreamHandler())
    try:
        yield logger
    finally:
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()


def log_to_file(logger: logging.Logger, file: Path) -> None:
    """Write what is logged from now on to a file as well."""
    _add_handler(logger, logging.FileHandler(file, encoding="utf-8"))


def _add_handler(logger: logging.Logger, handler: logging.Handler) -> None:
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger.addHandler(handler)


def open_tensorboard(folder: Folder, options: Mapping[str, Any], first_step: int) -> SummaryWriter | None:
    """Return the writer of the run's curves, or None where they are switched off; later steps of old curves go."""
    if not options["logger"]["use_tb_logger"] or options["name"].startswith("debug"):
        return None
    if options["logger"]["wandb"] is not None:
        from basicsr.utils.logger import init_wandb_logger

        init_wandb_logger(options)
    return SummaryWriter(str(folder.tensorboard), purge_step=first_step)


def versions() -> str:
    """Return the versions that results may depend on, in one line."""
    return (
        f"d2sm_plugin {__version__}, basicsr {host_version}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Python {sys.version.split()[0]}"
    )
