"""From an option file to validated options."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.options.checks import check_types
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.options.schema import LoggerOptions, Options, PathOptions, Strict, TrainOptions, ValOptions
from d2sm_plugin.safe_yaml import parse_yaml

_BLOCKS: dict[str, type] = {
    "path": PathOptions,
    "train": TrainOptions,
    "val": ValOptions,
    "logger": LoggerOptions,
}


def read_options(path: str | Path, is_train: bool = True, force: Iterable[str] = ()) -> dict[str, Any]:
    """Read and validate an option file.

    Args:
        path: the YAML file, or the name of a shipped one; see :func:`d2sm_plugin.options.files.read_option_file`.
        is_train: training needs a ``train`` block and a ``train`` dataset; testing a ``test`` or ``val`` dataset.
        force: overrides ``"a:b=value"`` of the command line; values are read as YAML.

    Returns:
        Plain nested dicts with every default filled in, plus ``is_train``.

    Raises:
        OptionError: for anything that cannot be used; the message names the file, the key's path and what it takes.
    """
    file = read_option_file(path)
    for entry in force:
        apply_override(file.content, entry)
    try:
        return validate_options(file.content, is_train)
    except OptionError as error:
        raise OptionError(f"{file}: {error}") from None


def validate_options(raw: dict[str, Any], is_train: bool = True) -> dict[str, Any]:
    """Validate options that are a nested dict already; see :func:`read_options`."""
    try:
        options = Options.model_validate(raw).model_dump()
    except ValidationError as error:
        errors = error.errors()
        rest = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise OptionError(_explain(errors[0]) + rest) from None
    check_types(options, is_train)
    options["is_train"] = is_train
    for key, block in options["datasets"].items():
        block["phase"] = key.split("_")[0]
        block.setdefault("name", key)
        block.setdefault("scale", options["scale"])
    return options


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


def _explain(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        model: type[Strict] | type[TrainOptions] = Options if len(error["loc"]) == 1 else _BLOCKS[str(error["loc"][0])]
        return f"{where}: unknown key{suggest(str(error['loc'][-1]), model.model_fields)}"
    if error["type"] == "missing":
        return f"{where}: this key is missing"
    if error["type"] == "unknown_key":
        return f"{where}.{error['ctx']['key']}: unknown key{suggest(error['ctx']['key'], error['ctx']['known'])}"
    if error["type"] == "not_a_block":
        return f"{where}.{error['ctx']['key']}: expected a block with a 'type', or ~ to switch the objective off"
    return f"{where}: {error['msg']}, got {error['input']!r}"
