"""Checkpoints of a run: written whole or not at all, the newest kept, found again.

Layout, as BasicSR's: ``models/net_g_{iter}.safetensors`` (``params``, ``params_ema``), likewise ``net_g_latest``, and
``training_states/{iter}.state``. The networks are written first and the state last, so a state that exists always has
its networks. Network files may be of torch's kind (``.pth``) as well, which BasicSR reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.files import cannot_write, hide_file, link_whole, whole_file
from d2sm_plugin.weight_files import PTH, SAFETENSORS, Description, load_file, write_tensors
from d2sm_plugin.weights import load_weights

_STATE = re.compile(r"^(\d+)\.state$")
#: What the entries of a training state are.
_KINDS = {"iter": int, "drawn": int, "optimizers": list, "random": list, "options": dict}
_ADVICE = "earlier checkpoints are whole: free some space and continue with --auto_resume"


@contextmanager
def _saving(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is either the old one or the whole new one.

    Raises:
        CheckpointError: when it cannot be written (disk full, no permission); what was there before stays.
    """
    with whole_file(path, CheckpointError, _ADVICE, durable=True) as file:
        try:
            yield file
        except RuntimeError as error:  # so torch's zip writer ends where the system refused to write
            refusal = error.__context__
            raise refusal if isinstance(refusal, OSError) else OSError(str(error).splitlines()[0]) from error


def save_atomically(value: Any, path: Path) -> None:
    """Write ``torch.save(value)`` to ``path`` so that the file is either the old one or the whole new one.

    Raises:
        CheckpointError: when it cannot be written (disk full, no permission); what was there before stays.
    """
    with _saving(path) as file:
        torch.save(value, file)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: the run's folder, ``experiments/NAME``.
        keep: how many of the newest to keep; None for all.
        ending: of network files that are written, ``".safetensors"`` or ``".pth"``; both are read.
        descriptions: label of a network (``net_g``) -> what its files say about it.
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int | None = None,
        ending: str = SAFETENSORS,
        descriptions: Mapping[str, Description] | None = None,
    ) -> None:
        self.models = Path(folder) / "models"
        self.states = Path(folder) / "training_states"
        self.keep = keep
        self.ending = ending
        self.descriptions = descriptions or {}

    def save(self, iteration: int, networks: Mapping[str, Mapping[str, nn.Module]], state: Mapping[str, Any]) -> None:
        """Write the networks and the training state of a step, then remove checkpoints beyond ``keep``.

        Raises:
            CheckpointError: when anything cannot be written.
        """
        for label, wrapped in networks.items():
            path = self.save_network(label, str(iteration), wrapped, iteration)
            link_whole(path, path.with_name(f"{label}_latest{self.ending}"), CheckpointError, _ADVICE)
            self._remove_other_kind(label, "latest")
        save_atomically({**state, "iter": iteration}, self.states / f"{iteration}.state")
        self._remove_old(list(networks))

    def save_network(self, label: str, moment: str, wrapped: Mapping[str, nn.Module], iteration: int) -> Path:
        """Write one network file, ``{label}_{moment}`` with its ending, and return its path.

        Args:
            label: ``"net_g"``.
            moment: ``"1000"``, ``"latest"``, ``"best_psnr"``.
            wrapped: wrapper key -> network.
            iteration: training step, for the file's description.
        """
        path = self.models / f"{label}_{moment}{self.ending}"
        about = self.descriptions.get(label)
        with _saving(path) as file:
            write_tensors(
                file,
                self.ending,
                {key: network.state_dict() for key, network in wrapped.items()},
                None if about is None else replace(about, step=iteration),
            )
        self._remove_other_kind(label, moment)
        return path

    def network_file(self, label: str, moment: str) -> Path:
        """Return the path of a network's file of either kind; one that may not exist where there is none."""
        paths = [self.models / f"{label}_{moment}{ending}" for ending in (SAFETENSORS, PTH)]
        return next((path for path in paths if path.is_file()), paths[0])

    def _remove_other_kind(self, label: str, moment: str) -> None:
        """Remove the file that has just been replaced, where an earlier part of the run wrote the other kind."""
        other = PTH if self.ending == SAFETENSORS else SAFETENSORS
        path = self.models / f"{label}_{moment}{other}"
        with _changing(path):
            path.unlink(missing_ok=True)

    def iterations(self) -> list[int]:
        """Return the steps for which there is a training state, in ascending order."""
        if not self.states.is_dir():
            return []
        matches = (_STATE.match(file.name) for file in self.states.iterdir() if file.is_file())
        return sorted(int(match[1]) for match in matches if match)

    def latest_state(self) -> Path | None:
        """Return the newest training state, or None where there is none."""
        iterations = self.iterations()
        return self.states / f"{iterations[-1]}.state" if iterations else None

    def newest_whole(self) -> tuple[Path, list[str]]:
        """Return the newest training state that can be read with its networks, and what is wrong with newer ones.

        Raises:
            CheckpointError: when there is none.
        """
        problems: list[str] = []
        for iteration in reversed(self.iterations()):
            path = self.states / f"{iteration}.state"
            try:
                read_state(path)
                networks = [f for end in (SAFETENSORS, PTH) for f in self.models.glob(f"*_{iteration}{end}")]
                if not networks:
                    raise CheckpointError(f"{path}: its networks are gone ({self.models}/*_{iteration}{self.ending})")
                for network in networks:
                    load_file(network)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            return path, problems
        raise CheckpointError(f"{problems[0] if problems else self.states}; there is no other training state")

    def clear_up(self, iteration: int, labels: Sequence[str], tell: Callable[[str], object]) -> None:
        """Make way for the steps after one that is continued from, in a folder that no other process is writing to.

        Old checkpoints that a killed process was about to remove are removed. Training states of later steps, damaged
        or of an earlier continuation, get the ending ``.old``, so that nothing continues from them by itself.

        Args:
            iteration: the step.
            labels: of the networks, as in :meth:`save`.
            tell: gets a line for each state that was renamed.

        Raises:
            CheckpointError: when the system refuses to rename or remove one.
        """
        for later in (step for step in self.iterations() if step > iteration):
            path = self.states / f"{later}.state"
            with _changing(path):
                os.replace(path, path.with_suffix(".state.old"))
            tell(f"{path}: of a later step than {iteration:,}, renamed to {later}.state.old")
        self._remove_old(labels)

    def load(self, state_path: str | Path, networks: Mapping[str, Mapping[str, nn.Module]]) -> dict[str, Any]:
        """Load the networks that belong to a training state, and return the state.

        Raises:
            CheckpointError: when the state or a network file is missing, damaged, or of another architecture.
        """
        state_path = Path(state_path)
        state = read_state(state_path)
        store = CheckpointStore(state_path.parent.parent)
        for label, wrapped in networks.items():
            for key, net in wrapped.items():
                load_weights(net, store.network_file(label, str(state["iter"])), key)
        return state

    def _remove_old(self, labels: Sequence[str]) -> None:
        if self.keep is None:
            return
        for iteration in self.iterations()[: -self.keep]:
            state = self.states / f"{iteration}.state"
            with _changing(state):
                networks = [hide_file(self.network_file(label, str(iteration))) for label in labels]
                state.unlink(missing_ok=True)
                for network in networks:
                    network.unlink(missing_ok=True)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Context in which a file of a checkpoint is renamed or removed, perhaps with others that belong to it."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, CheckpointError) from error


def describe_networks(options: Mapping[str, Any]) -> dict[str, Description]:
    """Return what the network files of a training say about themselves: label -> description."""
    blocks = {name: block for name, block in options.items() if name.startswith("network_") and block is not None}
    return {name.replace("network", "net"): Description(block, options["name"]) for name, block in blocks.items()}


def read_state(path: Path) -> dict[str, Any]:
    """Return the training state in a file.

    Raises:
        CheckpointError: when the file is missing, damaged, or not a training state of this package.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such training state; give a file such as training_states/1000.state")
    state = load_file(path)
    if not isinstance(state, dict) or not {"iter", "optimizers", "random", "drawn"} <= set(state):
        raise CheckpointError(
            f"{path}: not a training state that this package wrote; BasicSR's own cannot be continued"
        )
    for key, kind in _KINDS.items():
        if not isinstance(state.get(key, kind()), kind) or (kind is int and state[key] < 0):
            raise CheckpointError(f"{path}: its entry '{key}' is damaged; continue from an earlier one")
    return state
