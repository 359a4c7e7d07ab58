"""The option files of a suite's runs: of each training, of its test, and of networks that are tested as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from d2sm_plugin.custom_imports import with_command_line
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.options.cross_checks import measured_names
from d2sm_plugin.options.files import read_option_file
from d2sm_plugin.options.merge import merge
from d2sm_plugin.options.named_files import missing_files
from d2sm_plugin.options.reader import model_class, validate_options
from d2sm_plugin.studies.compare.suite import Suite, TestedRow


def training_options(suite: Suite, base: Mapping[str, Any], variant: str, seed: int = 0) -> dict[str, Any]:
    """Return the raw option file of a variant's training, with a seed."""
    raw = merge(_content(suite, base, suite.base_of(variant)), suite.options)
    for name in suite.lineage(variant):
        raw = merge(raw, suite.variants[name].options)
    return with_command_line(raw) | {"name": variant.replace("/", "_"), "manual_seed": seed}


def _content(suite: Suite, base: Mapping[str, Any], file: str) -> Mapping[str, Any]:
    return base if file == suite.base else read_option_file(file).content


def test_options(suite: Suite, train: Mapping[str, Any], rows: Sequence[TestedRow] = ()) -> dict[str, Any]:
    """Return the raw option file that measures what a training leaves behind; the weights' path is still missing.

    Args:
        suite: the suite.
        train: raw options of the training.
        rows: whose ``val`` is laid over that of the suite's test, one after another.
    """
    shared = {
        key: train[key] for key in ("model_type", "scale", "num_gpu", "custom_imports", "network_g") if key in train
    }
    val = {"save_img": False, "pbar": False, **suite.test.val}
    for row in rows:
        val = merge(val, row.val)
    return {"name": "test", **shared, "datasets": suite.test.datasets, "path": {}, "val": val}


def trained_test_options(suite: Suite, train: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Return :func:`test_options` of a variant."""
    return test_options(suite, train, [suite.variants[name] for name in suite.lineage(variant)])


def tested_options(suite: Suite, base: Mapping[str, Any], row: str) -> dict[str, Any]:
    """Return the raw option file that measures a network as it is, a row of ``tested``."""
    tested = suite.tested[row]
    raw = merge(base, suite.options) if tested.base is None else read_option_file(tested.base).content
    raw = with_command_line(merge(raw, tested.options))
    return {**test_options(suite, raw, [tested]), "path": start_weights(raw)}


def start_weights(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``path`` that says which weights a network has before it is trained."""
    path = raw.get("path") or {}
    return {key: path[key] for key in ("pretrain_network_g", "param_key_g", "strict_load_g") if key in path}


def check_options(
    suite: Suite,
    trains: Mapping[str, Mapping[str, Any]],
    source: str | Path,
    tests: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[str]:
    """Check the options of all variants and of the test, and the columns of the table.

    Args:
        suite: the suite.
        trains: raw options of each variant's training.
        source: the suite file, for messages.
        tests: raw options of the test of each row of ``tested``.

    Returns:
        A phrase for each file or folder that they name and that is not there.

    Raises:
        OptionError: naming the variant and the key; where several have mistakes, the others too.
    """
    mistakes: dict[str, str] = {}
    missing: dict[str, None] = {}
    files: list[tuple[str, Mapping[str, Any], bool]] = [(f"tested.{row}", raw, False) for row, raw in tests.items()]
    for variant, train in trains.items():
        files += [
            (f"variants.{variant}", train, True),
            ("test", trained_test_options(suite, train, variant), False),
        ]
    for place, raw, is_train in files:
        try:
            options = validate_options(raw, is_train, suite.processes)
        except OptionError as error:
            mistakes.setdefault(place, str(error))
            continue
        missing |= dict.fromkeys(f"{place}: {phrase}" for phrase in missing_files(options))
        if not is_train and suite.columns is not None:
            _check_columns(suite.columns, options, mistakes)
    if mistakes:
        place, first = next(iter(mistakes.items()))
        further = [other for other in mistakes if other != place]
        rest = f" (and there are mistakes in {', '.join(further)})" if further else ""
        raise OptionError(f"{source}: {place}: {first}{rest}")
    return list(missing)


def _check_columns(columns: Sequence[str], options: Mapping[str, Any], mistakes: dict[str, str]) -> None:
    known = measured_names(options, model_class(options["model_type"]))
    for name in columns:
        of_class = name.startswith("IoU/") and options["val"]["segmentation"] is not None
        if name not in known and not of_class:
            mistakes.setdefault("columns", f"no figure '{name}' is measured{suggest(name, known)}")
