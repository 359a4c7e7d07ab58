"""Nested options: one laid over another, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any


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


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield one phrase for each value that differs between two nested options, for people to read."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}, key=str):
            where = f"{path}.{key}" if path else str(key)
            if key not in before:
                yield f"{where} is new ({after[key]!r})"
            elif key not in after:
                yield f"{where} is gone (was {before[key]!r})"
            else:
                yield from differences(before[key], after[key], where)
    elif before != after:
        yield f"{path} was {before!r}, is now {after!r}"
