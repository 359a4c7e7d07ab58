"""Figures of a validation that are better when they are lower, as the metrics themselves say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2sm_plugin.registry import METRIC_REGISTRY, lookup

#: BasicSR's metrics that are better when they are lower; it does not say so itself.
_LOWER_IN_HOST = frozenset({"calculate_niqe", "calculate_fid"})


def better_of(block: Mapping[str, Any], where: str) -> str:
    """Return ``"higher"`` or ``"lower"``, whichever is better.

    Args:
        block: of ``val.metrics``. Its ``better`` goes first; then the attribute ``better`` of the metric, or what its
            static method ``better_with`` says of the block's arguments; without either it is ``"higher"``.
        where: path of the block, for messages.

    Raises:
        OptionError: for an unknown metric.
    """
    if "better" in block:
        return str(block["better"])
    target = lookup(METRIC_REGISTRY, block["type"], f"{where}.type")
    if hasattr(target, "better_with"):
        return str(target.better_with({key: value for key, value in block.items() if key != "type"}))
    return str(getattr(target, "better", "lower" if target.__name__ in _LOWER_IN_HOST else "higher"))


def lower_is_better(blocks: Mapping[str, Mapping[str, Any]], measures: Mapping[str, str]) -> set[str]:
    """Return the names of the figures of which lower ones are better.

    Args:
        blocks: ``val.metrics``; ``NAME_input`` is as ``NAME``.
        measures: figure -> ``"higher"`` or ``"lower"``, of what models measure themselves.
    """
    names = {name for name, better in measures.items() if better == "lower"}
    for name, block in blocks.items():
        if better_of(block, f"val.metrics.{name}") == "lower":
            names |= {name, f"{name}_input"}
    return names
