"""One colour for each method in all plots of features."""

from __future__ import annotations

# Okabe and Ito's palette, which people of all kinds of colour vision can tell apart.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_NOISY = "#999999"


def colour_of(position: int, name: str) -> str:
    """Return the colour of the method at a position in the order of the rows; noisy images are grey."""
    return _NOISY if name == "noisy" else _PALETTE[position % len(_PALETTE)]
