"""D2SMModel and its subclasses in BasicSR's own trainer and tester (``basicsr.train``, ``basicsr.test``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import OptionError
from d2sm_plugin.metrics.better import lower_is_better
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import validate_options
from d2sm_plugin.pipeline.best import BestMetrics
from d2sm_plugin.pipeline.checkpoint import CheckpointStore, describe_networks
from d2sm_plugin.pipeline.metrics_file import MetricsFile
from d2sm_plugin.pipeline.report import result_lines, result_table
from d2sm_plugin.pipeline.validation import Evaluator
from d2sm_plugin.registry import MODEL_REGISTRY, lookup
from d2sm_plugin.weight_files import PTH
from d2sm_plugin.weights import load_weights

#: What BasicSR's own reader adds to options, and what it writes into ``path``.
_OF_PROCESSES = ("dist", "rank", "world_size")
_ADDED = (*_OF_PROCESSES, "auto_resume", "is_train", "root_path")
_FOLDERS = ("models", "training_states", "log", "visualization")


def build_in_host(opt: Mapping[str, Any]) -> D2SMModel:
    """Build a model for BasicSR's own trainer or tester.

    Args:
        opt: what ``basicsr.utils.options.parse_options`` returned; ``model_type`` is D2SMModel or a subclass.

    Raises:
        OptionError: for options that cannot be used, as the plugin's own reader names them, and for gradient
            accumulation, ``val.save_best`` and ``val.patience``, which BasicSR's trainer does not do.
    """
    raw = {key: value for key, value in opt.items() if key not in _ADDED}
    raw["path"] = {key: value for key, value in opt["path"].items() if key not in _FOLDERS}
    options = validate_options(raw, opt["is_train"])
    if opt["is_train"]:
        for where, value, possible in (
            ("train.accumulate", options["train"]["accumulate"], (1,)),
            ("val.save_best", options["val"]["save_best"], (None,)),
            ("val.patience", options["val"]["patience"], (None,)),
        ):
            if value not in possible:
                raise OptionError(f"{where}: BasicSR's own trainer does not do this; remove it, or run: d2sm train")
    cls: type[D2SMModel] = lookup(MODEL_REGISTRY, opt["model_type"], "model_type")
    options |= {key: opt[key] for key in _OF_PROCESSES}
    options["num_gpu"] = min(opt["num_gpu"], 1)
    # The name of the class itself stays, as it is what messages and the log give.
    model = type(cls.__name__, (_InHost, cls), {"__module__": cls.__module__})(options)
    model.folders = {key: Path(opt["path"][key]) for key in _FOLDERS if key in opt["path"]}
    model.validated = set()
    for note in options["notes"]:
        model.logger.info(note)
    return model


class _HostLoader:
    """A loader of BasicSR's as the evaluator takes one."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.dataset = loader, loader.dataset
        self.where = f"datasets: {loader.dataset.opt['name']}"

    def groups(self) -> Iterator[list[dict[str, Any]]]:
        """Yield each batch as a group of its own."""
        return ([batch] for batch in self.loader)


class _InHost:
    """Methods that BasicSR's trainer and tester call, by means of the plugin's own pipeline."""

    folders: dict[str, Path]
    validated: set[tuple[str, int]]

    def save(self: Any, epoch: int, current_iter: int) -> None:
        """Write networks and, but for the last call (-1), the training state."""
        if self.opt["rank"] != 0:
            return
        keep, about = self.opt["logger"]["keep_checkpoints"], describe_networks(self.opt)
        store = CheckpointStore(self.folders["models"].parent, keep, PTH, about)  # BasicSR asks for such files
        if current_iter == -1:
            for label, wrapped in self.networks().items():
                store.save_network(label, "latest", wrapped, self.train_block.total_iter)
            return
        store.save(current_iter, self.networks(), {**self.training_state(), "epoch": epoch})

    def resume_training(self: Any, resume_state: Mapping[str, Any]) -> None:
        """Load the networks that belong to a state, and take the state back."""
        for label, wrapped in self.networks().items():
            for key, net in wrapped.items():
                load_weights(net, self.folders["models"] / f"{label}_{resume_state['iter']}.pth", key)
        self.load_training_state(resume_state)
        if self.opt["rank"] == 0:
            self._record().forget_after(resume_state["iter"])

    def validation(self: Any, dataloader: Any, current_iter: int, tb_logger: Any, save_img: bool = False) -> None:
        """Restore and measure one set, log the means (``metrics.csv`` too), and write pictures if asked to."""
        name = dataloader.dataset.opt["name"]
        if self.is_train:
            current_iter = min(current_iter, self.train_block.total_iter)  # at the end BasicSR counts one more
            if (name, current_iter) in self.validated:
                return
            self.validated.add((name, current_iter))
        pictures = self.folders["visualization"] if save_img else None
        evaluator = Evaluator(self.opt, {name: _HostLoader(dataloader)}, pictures, not self.is_train, self.device)
        results = evaluator.run(self, current_iter)
        if self.opt["rank"] != 0:
            return
        if not self.is_train:
            self.logger.info(f"Test of {name}:\n{result_table(results)}")
            return
        record = self._record()
        best = BestMetrics(lower_is_better(self.opt["val"]["metrics"], self.measures), record.rows)
        best.update(current_iter, results)
        record.add(current_iter, results)
        for line in result_lines(results, best):
            self.logger.info(line)
        for metric, value in results[name][1].items() if tb_logger is not None else ():
            tb_logger.add_scalar(f"metrics/{name}/{metric}", value, current_iter)

    def _record(self: Any) -> MetricsFile:
        return MetricsFile(self.folders["log"] / "metrics.csv")
