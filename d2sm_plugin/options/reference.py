"""Writes the reference of option keys from the schema itself, so that it cannot drift from it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from tabulate import tabulate

from d2sm_plugin.files import write_whole
from d2sm_plugin.options.schema import LoggerOptions, Options, PathOptions, TrainOptions, ValOptions

_INTRO = """# Option files

Written by `python tools/write_option_reference.py` from the schema that checks option files.

The dialect is BasicSR's. A block with a `type` names a registered class, and its other keys are that class's
arguments: networks (`network_g`), datasets, objectives (`train.*_opt`), metrics (`val.metrics`), optimisers and
schedules. An unknown key anywhere is an error that names the nearest known one. Numbers may be written as `1e-4`.
Of BasicSR's loader keys in a dataset's block, `batch_size_per_gpu`, `num_worker_per_gpu`, `dataset_enlarge_ratio` and
`num_prefetch_queue` act; `use_shuffle`, `prefetch_mode`, `pin_memory` and `persistent_workers` are accepted and have no
effect: training data are always shuffled, workers live as long as the run, and memory is pinned where there is a GPU.
Any key can be set on the command line: `--force_yml train:total_iter=1000 train:optim_g:lr=1e-4`.

A file with `extends: other.yml` states only what it changes in another one, which is named relative to it or is a
shipped one. Blocks are merged key by key; a block of another `type` replaces the old one; `~` takes a block away, and
sets any other key to none. A run keeps the merged whole.
"""

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", Options),
    ("`path`", PathOptions),
    ("`train`", TrainOptions),
    ("`val`", ValOptions),
    ("`logger`", LoggerOptions),
)


def option_reference() -> str:
    """Return the reference as Markdown."""
    parts = [_INTRO]
    for title, model in _SECTIONS:
        summary = inspect.cleandoc(model.__doc__ or "").splitlines()[0]
        rows = [
            [f"`{name}`", _default(field), field.description or _meaning(name)]
            for name, field in model.model_fields.items()
        ]
        table = tabulate(rows, headers=["key", "default", "meaning"], tablefmt="github")
        parts.append(f"## {title}\n\n{summary}\n\n{table}\n")
    return "\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the reference into a file."""
    parser = argparse.ArgumentParser(description="Write the reference of option keys.")
    parser.add_argument("--out", type=Path, default=Path("docs/options.md"))
    args = parser.parse_args(argv)
    write_whole(args.out, option_reference())
    return 0


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "`{}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"  # as YAML spells it
    return "none" if field.default is None else f"`{field.default}`"


def _meaning(name: str) -> str:
    return _MEANINGS[name]


_MEANINGS = {
    "model_type": "model that owns networks and objectives",
    "datasets": "`train`, and any number of `val`, `val_2`, `test_cbsd68`: the key's beginning is the phase",
    "network_g": "the restoration network: `type` and its arguments",
    "network_d": "the discriminator, for models that have one",
    "path": "see below",
    "train": "see below; needed for training",
    "val": "see below",
    "logger": "see below",
    "find_unused_parameters": "for networks of which some parameters get no gradient, with several processes",
    "param_key_d": "as `param_key_g`, for the discriminator",
    "strict_load_d": "as `strict_load_g`, for the discriminator",
    "net_d_iters": "steps of the discriminator for one of the generator",
    "net_d_init_iters": "steps of the discriminator before the generator's first",
    "use_tb_logger": "TensorBoard curves under `tb_logger/NAME`",
    "wandb": "`{project: ..., resume_id: ...}`: mirror TensorBoard to Weights & Biases",
}
