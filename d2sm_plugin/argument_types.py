"""Types of constructor arguments that say more than ``int`` and ``dict``: option files are checked by them.

They mean nothing to Python itself; whoever calls a constructor in code passes plain values as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class AtLeast:
    """Mark of a number that must not be smaller: ``Annotated[int, AtLeast(1)]``."""

    least: float


@dataclass(frozen=True)
class BlockOf:
    """Mark of an argument that may be an option block with a ``type``: ``Annotated[Mapping | ..., BlockOf(REGISTRY)]``.

    Attributes:
        registry: where the ``type`` is looked up.
        kind: base class of what it must name; None for anything in the registry.
    """

    registry: Any
    kind: type | None = None


#: A number of things, 1 at least.
Count = Annotated[int, AtLeast(1)]
#: An integer of at least 0.
NonNegative = Annotated[int, AtLeast(0)]
#: Factor on an objective, 0 at least.
Weight = Annotated[float, AtLeast(0)]
