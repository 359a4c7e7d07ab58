"""Importing people's own modules and files, whose classes register themselves for use in option files."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from d2sm_plugin.errors import OptionError
from d2sm_plugin.registry import REGISTRIES, origin

_SUFFIX = ".py"
_on_command_line: list[str] = []  # on the command line


def import_custom(entry: str, where: str = "custom_imports") -> None:
    """Import a module, or a file, once.

    A file's folder is appended to ``sys.path`` and the file imported by its name, so that processes that start anew
    find its classes too.

    Args:
        entry: name of a module (``my_package.networks``), or path of a file (``my_losses.py``) or of a package.
        where: option it comes from, for messages.

    Raises:
        OptionError: when there is no such module or file, it cannot be imported, or its name belongs to another module.
    """
    path = Path(entry).expanduser()
    if is_path(entry):
        if not path.is_file() and not (path / "__init__.py").is_file():
            raise OptionError(f"{where}: {entry}: no such Python file or package")
        folder, name = path.resolve().parent, path.resolve().name.removesuffix(_SUFFIX)
    else:
        folder, name = Path.cwd(), entry
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # behind all others, so that nothing else is hidden by it
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise OptionError(f"{where}: {entry}: cannot be imported ({reason}{_line_of(error, path)})") from error
    _check_names(module, f"{where}: {entry}")
    location = Path(getattr(module, "__file__", None) or "").resolve()
    if is_path(entry) and location not in (path.resolve(), path.resolve() / "__init__.py"):
        raise OptionError(
            f"{where}: {entry}: a module '{name}' exists already ({location}); give the file another name"
        )


def _check_names(module: ModuleType, where: str) -> None:
    """Refuse a class in BasicSR's registries whose name is that of one of ours, which option files would get."""
    for registry in REGISTRIES:
        plugin_table, host_table = registry.fill(), getattr(registry.host, "_obj_map", {})
        for name in plugin_table.keys() & host_table.keys():
            if host_table[name].__module__ == module.__name__ and origin(host_table[name]) != origin(
                plugin_table[name]
            ):
                raise OptionError(f"{where}: '{name}' is the name of a class of d2sm_plugin; give yours another one")


def import_from(content: Mapping[str, Any]) -> None:
    """Import what an option file names in ``custom_imports``; anything but a list of texts is left to other checks."""
    entries = content.get("custom_imports")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, str):
            import_custom(entry)


def with_command_line(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with what the command line has imported among their ``custom_imports``.

    So a run keeps what it needs, and processes that it starts import the same.
    """
    named = content.get("custom_imports")
    if not _on_command_line or (named is not None and not isinstance(named, list)):
        return dict(content)
    return {
        **content,
        "custom_imports": [*(named or []), *(entry for entry in _on_command_line if entry not in (named or []))],
    }


def _line_of(error: BaseException, path: Path) -> str:
    """Return in which line of a file something was raised, if it was raised there."""
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename) == path.resolve()]
    return f", line {lines[-1]}" if lines else ""


def is_path(entry: str) -> bool:
    """Tell whether an entry of ``custom_imports`` is a path, not the name of a module."""
    return entry.endswith(_SUFFIX) or "/" in entry or "\\" in entry


def located(entry: str, folder: Path) -> str:
    """Return an entry of an option file so that it can be imported from any working directory.

    Args:
        entry: of ``custom_imports``.
        folder: of the option file; paths start there, or else at the working directory.
    """
    if not is_path(entry):
        beside = folder / f"{entry}{_SUFFIX}"
        return str(beside.resolve()) if beside.is_file() else entry
    path = Path(entry).expanduser()
    return str((folder / path).resolve()) if (folder / path).exists() else str(path.resolve())


class CustomImport(argparse.Action):
    """Argument of a parser: a module or file is imported as soon as ``--custom-import`` is read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Import it, and remember it for :func:`with_command_line`."""
        entry = located(str(values), Path.cwd())
        import_custom(entry, "--custom-import")
        if entry not in _on_command_line:
            _on_command_line.append(entry)


def add_custom_import(parser: argparse.ArgumentParser) -> None:
    """Add ``--custom-import`` to the arguments of a tool."""
    parser.add_argument(
        "--custom-import", action=CustomImport, default=argparse.SUPPRESS, metavar="MODULE|FILE",
        help="import your own module or file, whose networks, objectives, datasets or metrics the options name; may "
        "be given several times",
    )  # fmt: skip
