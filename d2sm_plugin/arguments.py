"""Command lines: a parser whose errors are ours, and kinds of arguments that refuse what cannot be used."""

from __future__ import annotations

import argparse
import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from d2sm_plugin.errors import OptionError

#: Seeds that Python, NumPy and torch all take.
MAX_SEED = 2**32 - 1
_MAX_WHOLE = 2**31 - 1


class Parser(argparse.ArgumentParser):
    """Argparse's parser; a wrong command line raises an :class:`OptionError`, which is one line, as all errors are."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as an error of ours."""
        raise OptionError(f"{message}; {self.prog} --help says what there is")


def whole(least: int = 0, most: int = _MAX_WHOLE) -> Callable[[str], int]:
    """Return the kind of whole numbers from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            bound = f"from {least} on" if most == _MAX_WHOLE else f"from {least} to {most}"
            raise ArgumentTypeError(f"expected a whole number {bound}, got '{_short(text)}'")
        return value

    return parse


def number(least: float, most: float = math.inf, above: bool = False) -> Callable[[str], float]:
    """Return the kind of finite numbers from ``least`` (with ``above``: above it) to ``most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most or not math.isfinite(value):
            bound = f"{'above' if above else 'from'} {least:g}" + (f" to {most:g}" if most < math.inf else "")
            raise ArgumentTypeError(f"expected a number {bound}, got '{_short(text)}'")
        return value

    return parse


def device(text: str) -> str:
    """Return the name of a device that can be used; ``auto`` is a GPU where there is one, else the CPU."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(text)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        missing = isinstance(error, NotImplementedError)  # torch's text is about the operation that shows it
        reason = "torch finds none here" if missing else _short(str(error).splitlines()[0])
        raise ArgumentTypeError(f"'{_short(text)}' cannot be used ({reason}); give cpu, cuda or cuda:0") from None
    if chosen.type == "meta":
        raise ArgumentTypeError("'meta' computes nothing; give cpu, cuda or cuda:0")
    return text


def out_folder(text: str) -> Path:
    """Return the path of a folder that is there or can be made."""
    try:
        path = Path(text).expanduser()
        if "\0" in text:  # which Path.exists passes over
            raise ValueError("it holds a null character")
        nearest = next(place for place in (path, *path.parents) if place.exists())
    except (OSError, RuntimeError, ValueError) as error:
        raise ArgumentTypeError(f"'{_short(text)}' cannot be the path of a folder ({error})") from None
    if not nearest.is_dir():
        raise ArgumentTypeError(f"{nearest} is a file; give a folder")
    return path


def out_file(text: str) -> Path:
    """Return the path of a file that can be written or replaced."""
    try:
        path = Path(text).expanduser()
        is_folder = not path.name or path.is_dir()
        if "\0" in text:
            raise ValueError("it holds a null character")
    except (OSError, RuntimeError, ValueError) as error:
        raise ArgumentTypeError(f"'{_short(text)}' cannot be the path of a file ({_short(str(error))})") from None
    if is_folder:
        raise ArgumentTypeError(f"'{_short(text)}' is a folder; give a file")
    out_folder(str(path.parent))
    return path


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
