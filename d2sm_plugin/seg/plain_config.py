"""Configs of mmseg that are data, YAML or JSON: read without running anything that they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import OptionError
from d2sm_plugin.files import regular
from d2sm_plugin.safe_yaml import parse_yaml

SUFFIXES = (".yml", ".yaml", ".json")
#: What mmengine writes for tuples when it dumps a config as YAML; lists serve as well.
_TUPLE = re.compile(r"!!python/tuple\b")
_MAX_BYTES = 1 << 18
_MAX_BASES = 20
#: Keys that name other weights; all weights come from the checkpoint.
_DROPPED = ("pretrained", "init_cfg", "checkpoint_path")
#: Scopes of mmengine that a block may name by ``_scope_``; of any other one a module would be imported.
_SCOPES = ("mmseg", "mmcv", "mmengine")
_MODEL, _PIPELINE = "model", "test_pipeline"


def read_plain_config(path: Path) -> dict[str, Any]:
    """Return a YAML or JSON config with everything that it inherits from such files by ``_base_``.

    Only classes that mmseg has registered can be named; a config in Python, which would run, cannot be inherited from.

    Raises:
        OptionError: when a file cannot be read, or names what would import or run something.
    """
    config = _without_weights(_read(path, depth=0))
    for where, key, value in _entries(config, ""):
        imports = (key == "custom_imports" and value) or (key in ("_scope_", "default_scope") and value not in _SCOPES)
        if imports or (key == "class_weight" and isinstance(value, str)):
            raise OptionError(f"{path}: {where}: only configs in Python may say so, as it imports or unpickles")
    for part, registry in ((_MODEL, "MODELS"), (_PIPELINE, "TRANSFORMS")):
        for where, key, value in _entries(config.get(part), part):
            if key == "type":
                _check_type(value, registry, f"{path}: {where}")
    return config


def _read(path: Path, depth: int) -> dict[str, Any]:
    if depth > _MAX_BASES:
        raise OptionError(f"{path}: _base_ leads through more than {_MAX_BASES} files, or in a circle")
    if path.suffix not in SUFFIXES:
        raise OptionError(f"{path}: a config in {', '.join(SUFFIXES)} cannot inherit from it, as it would run")
    config = _parse(path)
    bases = config.pop("_base_", [])
    merged: dict[str, Any] = {}
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise OptionError(f"{path}: _base_: expected names of files, got {bases!r}")
    for base in bases:
        merged = _merged(_read(path.parent / base, depth + 1), merged)
    return _merged(config, merged)


def _parse(path: Path) -> dict[str, Any]:
    try:
        with open(regular(path), "rb") as file:
            text = file.read(_MAX_BYTES + 1).decode("utf-8")
        if len(text) > _MAX_BYTES:
            raise OptionError(f"{path}: longer than {_MAX_BYTES // 1024} KiB, which no config needs")
        is_json = path.suffix == ".json"
        config = json.loads(text) if is_json else parse_yaml(_TUPLE.sub("", text), str(path))
    except OptionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{path}: cannot be read as a config ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise OptionError(f"{path}: expected 'key: value' at the top, found {type(config).__name__}")
    return config


def _merged(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """A config on top of another one; blocks are merged unless they say ``_delete_``, all else is replaced."""
    result = dict(base)
    for key, value in config.items():
        below = result.get(key)
        if isinstance(value, dict):
            value = dict(value)
            delete = value.pop("_delete_", False)
            value = _merged(value, below if isinstance(below, dict) and not delete else {})
        result[key] = value
    return result


def _without_weights(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_weights(inner) for key, inner in value.items() if key not in _DROPPED}
    return [_without_weights(inner) for inner in value] if isinstance(value, list) else value


def _entries(value: Any, where: str) -> Iterator[tuple[str, str, Any]]:
    """Yield path, key and value of every entry of every mapping in a value."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{where}.{key}" if where else str(key)
            yield place, str(key), inner
            yield from _entries(inner, place)
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _entries(inner, f"{where}.{number}")


def _check_type(name: Any, registry: str, where: str) -> None:
    """Refuse what no registry of mmseg, mmcv or mmengine knows; mmengine would import a dotted name and call it."""
    import mmengine.registry
    import mmseg.registry

    known = {
        *getattr(mmengine.registry, registry).module_dict,
        *getattr(mmseg.registry, registry).module_dict,
        *_INTERPOLATIONS,
    }
    plain = str(name).removeprefix("mmseg.")
    if not isinstance(name, str) or plain not in known:
        raise OptionError(f"{where}: mmseg has registered no '{name}'; a config that is data can name nothing else")


#: Of upsampling layers, which mmcv builds by functions that are registered nowhere.
_INTERPOLATIONS = ("nearest", "bilinear", "deconv", "pixel_shuffle")
