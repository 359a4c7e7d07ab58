"""Names of the tensors of published networks as patterns, and the names that take their place here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

#: Pattern of a published name, and what stands in its place, as ``re.sub`` takes it.
Pattern = tuple[str, str | Callable[[re.Match[str]], str]]


class Renaming:
    r"""Patterns that are all applied, one after the other.

    >>> Renaming((r"^conv1\.", "head."), (r"\.w$", ".weight"))("conv1.w")
    'head.weight'
    """

    def __init__(self, *patterns: Pattern) -> None:
        self._patterns = [(re.compile(pattern), replacement) for pattern, replacement in patterns]

    def __call__(self, name: str) -> str:
        """Return the name of a tensor here."""
        for pattern, replacement in self._patterns:
            name = pattern.sub(replacement, name)
        return name

    def tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by their names here."""
        return {self(name): tensor for name, tensor in state.items()}
