"""The files and folders that options name, and those of them that are not there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from d2sm_plugin.options.signatures import signature_of
from d2sm_plugin.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, lookup

_OF_PATH = ("pretrain_network_g", "pretrain_network_d", "resume_state")
_OF_DATA = ("dataroot_", "landmarks", "meta_info")
_OF_SEGMENTATION = ("checkpoint", "labels")
#: Arguments that may also name a file which a package ships.
_OF_SHIPPED = ("config",)
#: Words and beginnings of values in the place of a file's name that name none.
_NO_FILES = ("imagenet", "auto", "package:", "http://", "https://")


def missing_files(options: Mapping[str, Any]) -> list[str]:
    """Return a phrase ``key: name`` for each file or folder that validated options name and that is not there."""
    return [
        f"{where}: {name}"
        for where, name in named_files(options)
        if not name.startswith(_NO_FILES) and not os.path.exists(os.path.expanduser(name))
    ]


def named_files(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of each key that names a file or folder, and its value."""
    yield from _values(options["path"], "path", _OF_PATH)
    for key, block in options["datasets"].items():
        yield from _values(block, f"datasets.{key}", _OF_DATA)
    yield from _values(options["val"]["segmentation"] or {}, "val.segmentation", _OF_SEGMENTATION)
    for key in ("network_g", "network_d"):
        yield from _of_block(ARCH_REGISTRY, options[key], key)
    for name, block in options["val"]["metrics"].items():
        yield from _of_block(METRIC_REGISTRY, block, f"val.metrics.{name}")
    for key, block in (options["train"] or {}).items():
        if key.endswith("_opt"):
            yield from _of_block(LOSS_REGISTRY, block, f"train.{key}")


def _values(block: Mapping[str, Any], where: str, beginnings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for key, value in block.items():
        if key.startswith(beginnings) and isinstance(value, str) and value:
            yield f"{where}.{key}", value


def _of_block(registry: Any, block: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield the files that the arguments of a class name, and those of the blocks within."""
    if not isinstance(block, Mapping):
        return
    for name, argument in signature_of(lookup(registry, block["type"], where)).arguments.items():
        value = block.get(name)
        if argument.is_file and isinstance(value, str) and name not in _OF_SHIPPED:
            yield f"{where}.{name}", value
        if argument.block is not None and isinstance(value, Mapping):
            yield from _of_block(argument.block.registry, value, f"{where}.{name}")
