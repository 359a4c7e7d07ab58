"""One colour for each method in all plots of features."""

from __future__ import annotations

# Okabe and Ito's palette, which people of all kinds of colour vision can tell apart, and two dark ones behind it.
_PALETTE = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#5B2C6F", "#6E4B26")
_NOISY = "#D55E00"


def colour_of(position: int, name: str) -> str:
    """Return the colour of the method at a position in the order of the rows; noisy images have one of their own."""
    return _NOISY if name == "noisy" else _PALETTE[(position - 1) % len(_PALETTE)]
