"""The training sets of an option file by key, and the sets that a validation or test measures by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from d2sm_plugin.errors import OptionError


def training_blocks(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the blocks of the training sets (``train``, ``train_2``, ...) by key."""
    return {key: block for key, block in datasets.items() if key.split("_")[0] == "train"}


def evaluation_blocks(datasets: Mapping[str, Mapping[str, Any]], phases: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the blocks of validation or test sets by name, one for each noise level, with their path as ``where``.

    A block whose ``sigma`` is a list stands for one set a level, named ``NAME_sigma25`` and so on.

    Raises:
        OptionError: when two sets have one name; figures and pictures of one would take the place of the other's.
    """
    blocks: dict[str, dict[str, Any]] = {}
    for key, block in datasets.items():
        if key.split("_")[0] not in phases:
            continue
        where = f"datasets.{key}"
        for name, changes in _levels(block):
            if name in blocks:
                raise OptionError(f"{where}: {blocks[name]['where']} has a set '{name}' too; give each its own name")
            blocks[name] = {**block, **changes, "where": where}
    return blocks


def _levels(block: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the name of each set that a block stands for, and what it changes in the block."""
    levels = block.get("sigma")
    if not isinstance(levels, list):
        return [(block["name"], {})]
    return [(f"{block['name']}_sigma{level:g}", {"sigma": level}) for level in levels]
