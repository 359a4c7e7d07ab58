"""Check of what data sets give against what a model takes, before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from d2sm_plugin.archs.interface import gather_inputs, named_outputs
from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.data.noise import with_seeded_noise
from d2sm_plugin.errors import OptionError, ShapeError
from d2sm_plugin.models.d2sm_model import D2SMModel


def check_inputs(network: nn.Module, sample: Mapping[str, Any], where: str) -> None:
    """Refuse a data set that does not give what the network takes.

    Args:
        network: the network.
        sample: one sample as the data set gives it.
        where: path of the data set's option block.

    Raises:
        OptionError: naming the data set, the network and the entry.
    """
    try:
        gather_inputs(network, sample)
    except ShapeError as error:
        raise OptionError(f"{where}: {error}") from None


def check_training_sample(model: D2SMModel, sample: Mapping[str, Any]) -> None:
    """Refuse training sets that do not give what the network and the objectives take.

    Only where an objective takes more than the sample holds, the sample passes a copy of the network, to see what
    outputs the network has.

    Args:
        model: about to be trained.
        sample: one sample as the training sets give it.

    Raises:
        OptionError: naming the network or objective, and the entry.
        ForeignError: for what the network raises.
    """
    sample = with_seeded_noise(sample)
    check_inputs(model.net_g, sample, "datasets.train")
    wanted = {f"train.{name}_opt": names for name, names in model.objectives.takes.items()}
    for key in ("takes", "condition"):
        wanted[f"train.gan_opt.{key}"] = getattr(model, f"gan_{key}", ())
    entries = {*sample, "restored"}
    if not entries.issuperset(name for names in wanted.values() for name in names):
        entries |= _outputs(model, sample)
    for where, names in wanted.items():
        missing = [name for name in names if name not in entries]
        if missing:
            raise OptionError(
                f"{where}: it takes {', '.join(names)}, but neither the training sets nor the network give "
                f"{', '.join(missing)} (given: {', '.join(sorted(entries))})"
            )


def _outputs(model: D2SMModel, sample: Mapping[str, Any]) -> set[str]:
    """Names of a network's outputs in training; of two equal samples, as a batch of one stops batch normalisation."""
    network, batch = deepcopy(model.net_g).train(), model.to_device(default_collate([sample, sample]))
    with torch.no_grad(), foreign_code(f"network_g: {type(network).__name__} on the first training sample"):
        return set(named_outputs(network(*gather_inputs(network, batch))))
