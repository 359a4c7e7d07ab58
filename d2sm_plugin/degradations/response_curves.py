"""Camera response curves: what a camera makes of linear light, as an analytic family of two parameters."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ENTRIES = 4096  # of the table by which the S-curve is inverted; its error is below 1e-6


class ResponseCurve(NamedTuple):
    """Camera response: a power law, on which an S-curve lies.

    With ``g = L^(1/gamma)`` the response to light L in [0, 1] is ``(1 - contrast) g + contrast (3 g² - 2 g³)``, which
    rises from 0 to 1. Measured curves of cameras (Grossberg and Nayar, "Modeling the space of camera response
    functions", PAMI 2004) have that shape; their table is not part of this package.

    Attributes:
        gamma: exponent, above 0; 2.2 is about that of sRGB.
        contrast: share of the S-curve, 0 to 1.
    """

    gamma: float
    contrast: float

    def render(self, light: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the response to light; values beyond [0, 1] are cut off, as a sensor and a file do it."""
        g = np.clip(light, 0, 1) ** np.float32(1 / self.gamma)
        return g * (1 + self.contrast * (g * (3 - 2 * g) - 1))

    def linearise(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the light that a response in [0, 1] stands for."""
        g = np.linspace(0, 1, _ENTRIES)
        table = g * (1 + self.contrast * (g * (3 - 2 * g) - 1))
        return (np.interp(image, table, g) ** self.gamma).astype(np.float32)
