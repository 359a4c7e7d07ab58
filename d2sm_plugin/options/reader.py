"""From an option file to validated options."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from d2sm_plugin.blocks import read_block, shown
from d2sm_plugin.custom_imports import import_from, with_command_line
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.checks import check_types
from d2sm_plugin.options.cross_checks import check_together
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.options.foreign import translate
from d2sm_plugin.options.schema import Options, options_of
from d2sm_plugin.registry import MODEL_REGISTRY, lookup
from d2sm_plugin.safe_yaml import parse_yaml


def read_options(path: str | Path, is_train: bool = True, force: Iterable[str] = ()) -> dict[str, Any]:
    """Read and validate an option file.

    Args:
        path: the YAML file, or the name of a shipped one; see :func:`d2sm_plugin.options.files.read_option_file`.
        is_train: training needs a ``train`` block and a ``train`` dataset; testing a ``test`` or ``val`` dataset.
        force: overrides ``"a:b=value"`` of the command line; values are read as YAML.

    Returns:
        Plain nested dicts with every default filled in, plus ``is_train`` and ``notes``, lines for the log.

    Raises:
        OptionError: for anything that cannot be used; the message names the file, the key's path and what it takes.
    """
    file = read_option_file(path)
    for entry in force:
        apply_override(file.content, entry)
    try:
        return validate_options(file.content, is_train)
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from error.__cause__


def validate_options(raw: Mapping[str, Any], is_train: bool = True, processes: int | None = None) -> dict[str, Any]:
    """Validate options that are a nested dict already; see :func:`read_options`.

    Args:
        raw: content of an option file.
        is_train: whether for training.
        processes: of the training; None for as many as torchrun has started.
    """
    typed, model, notes = typed_options(raw)
    options = typed.model_dump()
    for key, block in options["datasets"].items():
        block["phase"] = key.split("_")[0]
    check_types(options, model, is_train)
    for key, block in options["datasets"].items():
        block.setdefault("name", key)
        block.setdefault("scale", options["scale"])
    notes += check_together(options, model, is_train, processes or int(os.environ.get("WORLD_SIZE", "1")))
    return options | {"is_train": is_train, "notes": notes}


def typed_options(raw: Mapping[str, Any]) -> tuple[Options, type[D2SMModel], list[str]]:
    """Return options as their typed model, with the class that trains, and what there is to say about it.

    Modules that they name in ``custom_imports`` are imported. Blocks with a ``type`` are not looked into.

    Raises:
        OptionError: for an unknown key or model, or a value of the wrong type.
    """
    raw = with_command_line(raw)
    import_from(raw)
    named = raw.get("model_type", "D2SMModel")
    if not isinstance(named, str):
        raise OptionError(f"model_type: expected the name of a model, got {shown(named)}{suggest('', known_models())}")
    raw, notes = translate(raw, named in known_models())
    model = model_class(raw.get("model_type", "D2SMModel"))
    return read_block(options_of(model.train_options), raw, ""), model, notes


def model_class(name: str) -> type[D2SMModel]:
    """Return the model of that name.

    Raises:
        OptionError: for an unknown one, or one of BasicSR's that this pipeline cannot continue, gather or stop.
    """
    known = known_models()
    if name in known:
        return known[name]
    lookup(MODEL_REGISTRY, name, "model_type")
    raise OptionError(f"model_type: {name} is not made for this pipeline{suggest(name, known)}")


def known_models() -> dict[str, type[D2SMModel]]:
    """Return the models that this pipeline can train, by name."""
    return {name: model for name, model in MODEL_REGISTRY if inspect.isclass(model) and issubclass(model, D2SMModel)}


def apply_override(raw: dict[str, Any], entry: str) -> None:
    """Apply one ``a:b=value`` of ``--force_yml`` to raw options; the value is read as YAML (``1e-4``, ``[1, 2]``).

    Raises:
        OptionError: when the entry has no ``=`` or its path runs through a value that is not a block.
    """
    keys, equals, value = entry.partition("=")
    if not equals or not keys.strip():
        raise OptionError(f"--force_yml {entry}: expected path:to:key=value, for example train:total_iter=100")
    *parents, last = [key.strip() for key in keys.split(":")]
    block = raw
    for depth, key in enumerate(parents):
        block = block.setdefault(key, {})
        if not isinstance(block, dict):
            raise OptionError(f"--force_yml {entry}: '{':'.join(parents[: depth + 1])}' is a value, not a block")
    block[last] = parse_yaml(value, f"--force_yml {entry}")
