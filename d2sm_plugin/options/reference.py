"""Reference of option keys, written from the schema itself, so that it cannot drift from it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from tabulate import tabulate

from d2sm_plugin.data.dataset_options import DatasetOptions, LoaderOptions
from d2sm_plugin.data.host_datasets import TYPED_HOST_DATASETS
from d2sm_plugin.models.objective_weight import ObjectiveOptions, RelativeOptions
from d2sm_plugin.models.train_options import TrainOptions
from d2sm_plugin.options.json_schema import argument_descriptions
from d2sm_plugin.options.reader import known_models
from d2sm_plugin.options.schema import LoggerOptions, Options, PathOptions, ValOptions
from d2sm_plugin.options.signatures import signature_of
from d2sm_plugin.registry import DATASET_REGISTRY, DEGRADATION_REGISTRY
from d2sm_plugin.seg.scorer import SegmentationOptions

_INTRO = """# Option files

Written by `python tools/write_option_reference.py` from the schema that checks option files.

The dialect is BasicSR's. A block with a `type` names a registered class, and its other keys are that class's
arguments: networks (`network_g`), datasets, objectives (`train.*_opt`), metrics (`val.metrics`), optimisers and
schedules. Everything is checked before anything starts: unknown keys, values of the wrong type (`true` and `"8"` are
no numbers), and what does not go together, such as a schedule that ends before the training. A mistake is one line with
the path of the key. Numbers may be written as `1e-4`, and merge keys (`<<: *base`) work.
Any key can be set on the command line: `--force_yml train:total_iter=1000 train:optim_g:lr=1e-4`.

Your own networks, objectives, datasets and metrics: [extend.md](extend.md).

Editors with a YAML language server (in VS Code the extension "YAML") complete keys and mark mistakes by a JSON schema,
which the first line of each shipped file names. For files of your own, `d2sm options schema --out schema.json` writes
it, and the line is `# yaml-language-server: $schema=schema.json`.

A file with `extends: other.yml` states only what it changes in another one, which is named relative to it or is a
shipped one. Blocks are merged key by key; a block of another `type` replaces the old one; `~` takes a block away, and
sets any other key to none. A run keeps the merged whole.
"""

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", Options),
    ("`path`", PathOptions),
    ("`train`", TrainOptions),
    ("`train.*_opt`", ObjectiveOptions),
    ("`train.*_opt.loss_weight`", RelativeOptions),
    ("`val`", ValOptions),
    ("`val.segmentation`", SegmentationOptions),
    ("`logger`", LoggerOptions),
    ("`datasets.*`", LoaderOptions),
)


def option_reference() -> str:
    """Return the reference as Markdown."""
    tables: list[tuple[str, type[BaseModel], Iterable[str]]] = [(title, model, ()) for title, model in _SECTIONS]
    tables += [(f"`train` of {name}", model, TrainOptions.model_fields) for name, model in _train_options().items()]
    tables += [(f"`datasets.*` of {name}", model, ["phase"]) for name, model in _dataset_options().items()]
    return "\n".join([_INTRO, *(_section(*table) for table in tables), _degradations()])


def _section(title: str, model: type[BaseModel], without: Iterable[str]) -> str:
    summary = re.sub(r"(:class:)?`+", "`", inspect.cleandoc(model.__doc__ or "").splitlines()[0])
    fields = {name: field for name, field in model.model_fields.items() if name not in without}
    rows = [[f"`{name}`", _default(field), field.description] for name, field in fields.items()]
    return f"## {title}\n\n{summary}\n\n{tabulate(rows, headers=['key', 'default', 'meaning'], tablefmt='github')}\n"


def _degradations() -> str:
    """Return the degradations with their arguments."""
    rows = []
    for name, cls in sorted(DEGRADATION_REGISTRY):
        described = argument_descriptions(cls) if _is_ours(cls) else {}
        for argument in signature_of(cls).arguments.values() if described else ():
            default = "none" if argument.default is None else f"`{json.dumps(argument.default)}`"
            meaning = described[argument.name]["description"].removesuffix(".")
            rows.append([f"`{name}`", f"`{argument.name}`", "required" if argument.required else default, meaning])
    table = tabulate(rows, headers=["type", "key", "default", "meaning"], tablefmt="github")
    return (
        "## `datasets.*.degradations`\n\nBlocks of degradations, one after another; each takes `probability` as well, "
        f"that of its being done. See [training.md](training.md#other-degradations-than-gaussian-noise).\n\n{table}\n"
    )


def _train_options() -> dict[str, type[TrainOptions]]:
    """Return what the shipped models declare beyond the common keys, by model."""
    declared = {name: cls for name, cls in known_models().items() if "train_options" in vars(cls) and _is_ours(cls)}
    return {name: cls.train_options for name, cls in sorted(declared.items()) if cls.train_options is not TrainOptions}


def _dataset_options() -> dict[str, type[DatasetOptions]]:
    shipped = {name: cls.options_model for name, cls in DATASET_REGISTRY if _is_ours(cls)}
    return dict(sorted(shipped.items())) | dict(sorted(TYPED_HOST_DATASETS.items()))


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] == __name__.split(".", maxsplit=1)[0]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "`[]`" if field.default_factory is list else "`{}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"  # as YAML spells it
    return "none" if field.default is None else f"`{field.default}`"
