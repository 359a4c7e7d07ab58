"""Nested options: one laid over another, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Final, NamedTuple


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid over it, block by block; neither is changed.

    A block set to None (``~`` in YAML) is removed. A block whose ``type`` differs from the one it is laid over replaces
    it whole, since the arguments of one class mean nothing to another.
    """
    merged = deepcopy(dict(base))
    for key, value in over.items():
        old = merged.get(key)
        if value is None and isinstance(old, dict):
            del merged[key]
        elif (
            isinstance(value, Mapping)
            and isinstance(old, dict)
            and value.get("type", old.get("type")) == old.get("type")
        ):
            merged[key] = merge(old, value)
        else:
            merged[key] = deepcopy(value)
    return merged


class Change(NamedTuple):
    """A value of nested options that differs from what it was; :data:`MISSING` where there is none."""

    key: str
    before: Any
    after: Any


class _Missing:
    def __repr__(self) -> str:
        return "-"


#: In place of a value that is not there.
MISSING: Final = _Missing()


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Yield each value that differs between two nested options, by its path; a block in one alone is one value."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}, key=str):
            where = f"{path}.{key}" if path else str(key)
            yield from changes(before.get(key, MISSING), after.get(key, MISSING), where)
    elif before != after:
        yield Change(path, before, after)


def differences(before: Any, after: Any) -> Iterator[str]:
    """Yield one phrase for each value that differs between two nested options, for people to read."""
    for key, old, new in changes(before, after):
        if old is MISSING:
            yield f"{key} is new ({new!r})"
        elif new is MISSING:
            yield f"{key} is gone (was {old!r})"
        else:
            yield f"{key} was {old!r}, is now {new!r}"
