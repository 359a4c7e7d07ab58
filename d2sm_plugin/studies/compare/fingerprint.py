"""Fingerprint of what a run's result depends on, a short hash: equal ones need to be computed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from d2sm_plugin.data.dataset_options import LoaderOptions
from d2sm_plugin.options.reader import typed_options

_DIGITS = 8
#: Keys of an option file that change no figure: names, places of results, what is logged and shown, loader processes.
_WITHOUT_EFFECT = {
    "": ("name", "manual_seed", "num_gpu", "dist_params", "logger"),
    "path": ("experiments_root", "results_root", "ignore_resume_networks"),
    "val": ("save_img", "max_pictures", "suffix", "pbar", "save_best"),
}
_LOADER_KEYS = ("num_worker_per_gpu", "num_prefetch_queue", "prefetch_mode", "pin_memory", "persistent_workers")
#: Mini-batch of a process where the option file names none.
DEFAULT_BATCH = LoaderOptions.model_fields["batch_size_per_gpu"].default
#: Blocks whose files count by content, beside those of networks; data count by where they are.
_WITH_FILES = ("train", "val", "path", "custom_imports")


def essence(raw: Mapping[str, Any], processes: int = 1) -> dict[str, Any]:
    """Return the part of (valid) options that results depend on, without keys at their default.

    The seed is left out, since it is told apart by name. Files that networks, objectives and judges read (weights,
    configs, lists of classes) count by content, so that they may move, and a new one of the same name is noticed; data
    count by path. Of several processes only their joint batch counts, as in training.

    Args:
        raw: content of an option file.
        processes: of the training.
    """
    kept = typed_options(raw)[0].model_dump(exclude_defaults=True)
    for block, keys in _WITHOUT_EFFECT.items():
        holder = kept if not block else kept.get(block, {})
        for key in keys:
            holder.pop(key, None)
    for dataset in kept["datasets"].values():
        for key in _LOADER_KEYS:
            dataset.pop(key, None)
    if processes > 1:
        train = kept["datasets"]["train"]
        train["batch_size_per_gpu"] = processes * train.get("batch_size_per_gpu", DEFAULT_BATCH)
    segmentation = kept.get("val", {}).get("segmentation")
    if segmentation is not None:
        for key in ("overlay", "batch_size"):
            segmentation.pop(key, None)
    for block in kept:
        if block in _WITH_FILES or block.startswith("network_"):
            kept[block] = _with_contents(kept[block])
    return {key: value for key, value in kept.items() if value not in ({}, None)}


def _with_contents(value: Any) -> Any:
    """Return nested options with every name of a file replaced by its content."""
    if isinstance(value, Mapping):
        return {key: _with_contents(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_contents(part) for part in value]
    return content_of(value) if isinstance(value, str) else value


def fingerprint(essential: Mapping[str, Any]) -> str:
    """Return a hash of what :func:`essence` returned, in eight hexadecimal digits."""
    text = json.dumps(essential, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


@cache
def content_of(source: str) -> str:
    """Return ``sha256:...`` of a file, or the name itself where there is no such file (a URL, say)."""
    path = os.path.expanduser(source)
    if not os.path.isfile(path):  # unlike pathlib's, of any text, be it no name that a file can have
        return source
    return f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"
