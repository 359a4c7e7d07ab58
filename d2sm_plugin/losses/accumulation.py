"""Accumulation: an objective's value on the joint batch, from its values on several mini-batches."""

from __future__ import annotations

from torch import nn

from d2sm_plugin.errors import OptionError, suggest

#: ``mean``: their mean. ``sum``: their sum. ``queue``: gradients add up, and the last value is that of all samples.
ACCUMULATIONS = ("mean", "sum", "queue")


def accumulation_of(objective: nn.Module | None) -> str:
    """Return the ``accumulation`` that an objective declares; else ``"sum"`` where its ``reduction`` is, or ``"mean"``.

    Raises:
        OptionError: for a declaration that is not in :data:`ACCUMULATIONS`.
    """
    declared = getattr(objective, "accumulation", None)
    if declared is None:
        return "sum" if getattr(objective, "reduction", "mean") == "sum" else "mean"
    if declared not in ACCUMULATIONS:
        raise OptionError(
            f"{type(objective).__name__}.accumulation: '{declared}' is unknown{suggest(declared, ACCUMULATIONS)}"
        )
    return declared
