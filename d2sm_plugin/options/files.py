"""Option files on disk: found by path or by the name of a shipped one, and laid over the files that they extend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from d2sm_plugin.custom_imports import located
from d2sm_plugin.errors import OptionError, nearest
from d2sm_plugin.files import existing_file
from d2sm_plugin.options.merge import merge
from d2sm_plugin.safe_yaml import read_yaml

_SUFFIX = ".yml"
#: Keys of a suite whose value is an option file.
BASES_OF_SUITE = ("base", "variants:*:base", "tested:*:base")
_WIDTH = 120  # of the lines of a merged file


@dataclass(frozen=True)
class OptionFile:
    """An option file laid over those that it extends.

    Attributes:
        files: the file itself, then what it extends, and what that extends in turn.
        content: merged, without the key ``extends``.
    """

    files: tuple[Path, ...]
    content: dict[str, Any]

    def __str__(self) -> str:
        """The file, with those that it extends, for messages."""
        first, *bases = map(str, self.files)
        return f"{first} (extends {', '.join(bases)})" if bases else first

    def text(self) -> str:
        """The file as it was written, with its comments; the merged content where it extends another."""
        if len(self.files) == 1:
            return self.files[0].read_text(encoding="utf-8")
        merged = yaml.safe_dump(
            self.content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=_WIDTH
        )
        return f"# {self}\n\n{merged}"


def read_option_file(name: str | Path, relative: Sequence[str] = ()) -> OptionFile:
    """Read an option file, and the files that it extends.

    ``extends: other.yml`` names a file relative to the one that holds the key, or a shipped one. The file is laid over
    it block by block (see :func:`d2sm_plugin.options.merge.merge`).

    Args:
        name: path of the file, or the name of a shipped one.
        relative: keys whose value is a path relative to the file that holds it, or a shipped file; they are made whole.
            ``variants:*:base`` is the key ``base`` of every block in ``variants``.

    Raises:
        OptionError: when a file is missing or no YAML mapping, or ``extends`` leads round in a circle.
    """
    path = find_option_file(name)
    files, layers = [path], [_read_layer(path, relative)]
    while (parent := layers[-1].pop("extends", None)) is not None:
        where = f"{files[-1]}: extends"
        if not isinstance(parent, str):
            raise OptionError(f"{where}: expected the name of an option file, got {parent!r}")
        path = find_option_file(parent, files[-1].parent, f"{where}: ")
        if path.resolve() in [file.resolve() for file in files]:
            raise OptionError(f"{where}: it leads back to {path}")
        files.append(path)
        layers.append(_read_layer(path, relative))
    content = layers.pop()
    while layers:
        content = merge(content, layers.pop())
    return OptionFile(tuple(files), content)


def find_option_file(name: str | Path, folder: str | Path = ".", where: str = "") -> Path:
    """Return the path of an option file: a file that exists goes first, then the shipped one of that name.

    Args:
        name: a path, or the name of a shipped file with or without ``.yml``, e.g. ``train_ffdnet_l1``.
        folder: where relative paths begin.
        where: begins the message.

    Raises:
        OptionError: when there is no such file; the message names the nearest shipped one.
    """
    path = Path(folder, name)
    if (file := existing_file(os.path.join(folder, os.path.expanduser(name)))) is not None:
        return file
    names = shipped_names()
    wanted = Path(name).as_posix().removesuffix(_SUFFIX)
    if wanted in names:
        return shipped_folder() / f"{wanted}{_SUFFIX}"
    near = nearest(wanted.removeprefix("options/"), names)
    hint = f"; did you mean the shipped '{near}'?" if near else ""
    raise OptionError(f"{where}{str(path)[:300]}: no such option file{hint}")


def shipped_names() -> list[str]:
    """Return the names of the shipped option files and suites, e.g. ``train_ffdnet_l1`` and ``suites/fig9_camvid``."""
    folder = shipped_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob(f"*{_SUFFIX}"))


def shipped_folder() -> Path:
    """Return the folder of the shipped option files: inside an installed package, at the top of a clone."""
    installed = Path(__file__).with_name("shipped")
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "options"


def _read_layer(path: Path, relative: Sequence[str]) -> dict[str, Any]:
    content = read_yaml(path)
    imports = content.get("custom_imports")
    if isinstance(imports, list):
        content["custom_imports"] = [
            located(module, path.parent) if isinstance(module, str) else module for module in imports
        ]
    for key in relative:
        _make_whole(content, key.split(":"), path, "")
    return content


def _make_whole(block: dict[str, Any], keys: Sequence[str], file: Path, where: str) -> None:
    first, *rest = keys
    for key in list(block) if first == "*" else [first]:
        value, place = block.get(key), f"{where}{key}"
        if rest and isinstance(value, dict):
            _make_whole(value, rest, file, f"{place}.")
        elif not rest and isinstance(value, str):
            block[key] = str(find_option_file(value, file.parent, f"{file}: {place}: "))
