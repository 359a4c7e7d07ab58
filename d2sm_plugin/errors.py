"""Errors meant for the person who made them: what was given, what was expected, what to do.

Command line tools print ``str(error)`` on one line and exit with a non-zero status.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class D2SMError(Exception):
    """Base of all errors this package raises on purpose."""


class OptionError(D2SMError, ValueError):
    """An option file, option key or argument that cannot be used."""


class DataError(D2SMError, ValueError):
    """An image, label, LMDB or record that cannot be used."""


class ShapeError(D2SMError, ValueError):
    """A tensor whose shape or value range does not fit."""


class CheckpointError(D2SMError, RuntimeError):
    """A checkpoint that cannot be read, written or loaded into the network."""


class DependencyError(D2SMError, ImportError):
    """An optional dependency that is missing or refused to import."""


class RegistrationError(D2SMError, KeyError):
    """Two different objects that claim one registry name."""

    __str__ = Exception.__str__  # KeyError would print the message as a repr


class ForeignError(D2SMError, RuntimeError):
    """An exception out of code that this package calls and did not write: a data set, network, objective or metric."""


class OtherRankError(D2SMError):
    """Error that ended another process of a distributed run, which reports it."""


class TrainingError(D2SMError, RuntimeError):
    """A training run that cannot go on."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'? known: a, b, x"`` for a misspelt ``name``, as the tail of an error message."""
    known = sorted({str(item) for item in known})
    near = nearest(name, known)
    hint = f"; did you mean '{near}'?" if near else ";"
    return f"{hint} known: {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt one is closest to, if any is close; case makes no difference."""
    by_folded_case = {item.lower(): item for item in known}
    near = difflib.get_close_matches(str(name).lower(), by_folded_case, n=1, cutoff=0.6)
    return by_folded_case[near[0]] if near else None
