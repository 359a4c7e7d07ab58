"""Options that changed since a training stopped: which of them a training that goes on can take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.optimisation import takes_state_of
from d2sm_plugin.options.merge import MISSING, Change, changes

#: What the reader and the process add; it has no part in what is trained.
_OF_THE_PROCESS = {"dist", "rank", "local_rank", "device", "is_train", "notes"}
#: What a checkpoint's weights and states belong to.
_REFUSED = re.compile(
    r"(model_type|scale|network_[gd]|train\.growth)(\.|$)|train\.optim_[gd](\.type)?$|train\.\w+_opt(\.|$)"
)
#: What an objective may change: its part in the sum.
_OBJECTIVE_WEIGHT = re.compile(r"train\.\w+_opt\.(\w*loss_weight|perceptual_weight|style_weight|schedule)(\.|$)")
#: What the learning rate of every step follows from.
_SCHEDULE = re.compile(r"train\.(optim_[gd]\.|scheduler(\.|$)|warmup_iter$)")
#: What is read at the start of a new training alone.
_UNUSED = re.compile(r"path\.(pretrain_network_|param_key_|strict_load_|resume_state$|ignore_resume_networks$)")


def kept_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a training state keeps, to be compared when the training goes on."""
    return {key: value for key, value in options.items() if key not in _OF_THE_PROCESS}


class ResumeChanges:
    """Differences between the options of a checkpoint and those of the training that goes on from it.

    Args:
        before: options in the training state.
        now: options of this call.
        step: of the checkpoint, for messages.

    Raises:
        OptionError: when something changed that cannot, naming each key: networks, the kinds of optimisers, objectives
            but for their weights, and whatever else the checkpoint's states do not fit.
    """

    def __init__(self, before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
        self.changes = list(changes(kept_options(before), kept_options(now)))
        refused = [change for change in self.changes if _is_refused(change, before, now)]
        if refused:
            named = ", ".join(f"{key} ({_shown(old)}, now {_shown(new)})" for key, old, new in refused)
            raise OptionError(
                f"the checkpoint of step {step:,} cannot go on with what has changed: {named}; put it back, or start a "
                f"new run under another name from its weights (path.pretrain_network_g)"
            )

    @property
    def new_schedule(self) -> bool:
        """Tell whether the learning rate is to be computed anew, as if it had been scheduled so from the first step."""
        return any(_SCHEDULE.match(change.key) for change in self.changes)

    def lines(self) -> list[str]:
        """Return what changed and what becomes of it, as the lines of a table for the log; none for no change."""
        if not self.changes:
            return []
        rows = [[key, _shown(old), _shown(new), _fate(key)] for key, old, new in self.changes]
        headers = ["changed option", "before", "now", "what becomes of it"]
        return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True).splitlines()


def _is_refused(change: Change, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    key = change.key
    if key == "train.ema_decay":
        return not (change.before and change.after)  # the average is there or not
    if _OBJECTIVE_WEIGHT.match(key):
        return False
    if _REFUSED.match(key):
        return True
    block = re.match(r"train\.(optim_[gd])\.", key)
    return block is not None and not takes_state_of(now["train"][block[1]], before["train"][block[1]])


def _fate(key: str) -> str:
    return "not used: the checkpoint holds the networks" if _UNUSED.match(key) else "applied"


def _shown(value: Any) -> str:
    text = "-" if value is MISSING else "~" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
