"""The table of a comparison, for people (Markdown) and for programs (CSV, JSON)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

from d2sm_plugin.files import write_csv, write_json, write_whole


@dataclass
class Scores:
    """PSNR (dB) and SSIM of every image of every method.

    Attributes:
        methods: names, in the order of the table.
        crop_border: pixels that were left out on each side.
    """

    methods: Sequence[str]
    crop_border: int
    _values: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def add(self, method: str, key: str, psnr: float, ssim: float) -> None:
        """Record one image."""
        self._values.setdefault(method, {})[key] = (psnr, ssim)

    def psnr_of(self, method: str, key: str) -> float:
        """Return the PSNR of one image, in dB."""
        return self._values[method][key][0]

    def mean(self, method: str) -> tuple[float, float]:
        """Return a method's PSNR and SSIM, each the mean over its images."""
        psnr, ssim = np.mean(list(self._values[method].values()), axis=0)
        return float(psnr), float(ssim)

    def rows(self) -> list[tuple[str, str, float, float]]:
        """Return (method, key, PSNR, SSIM) of every image."""
        return [(name, key, *values) for name in self.methods for key, values in self._values[name].items()]

    def count(self) -> int:
        """Return the number of images of a method."""
        return len(self._values[self.methods[0]])


def write_report(scores: Scores, out: Path) -> str:
    """Write ``table.md``, ``metrics.csv``, ``metrics.json`` and ``per_image.csv`` into ``out``.

    ``metrics.json`` reads ``{"NAME": {"PSNR": dB, "SSIM": value}}``; the PSNR of equal images is infinite, which JSON
    has no number for, and is written as null.

    Returns:
        The table in Markdown.

    Raises:
        DataError: when a file cannot be written.
    """
    means = {name: scores.mean(name) for name in scores.methods}
    rows = [[name, f"{psnr:.2f}", f"{ssim:.4f}"] for name, (psnr, ssim) in means.items()]
    border = f", {scores.crop_border} pixels left out on each side" if scores.crop_border else ""
    table = tabulate(rows, headers=["method", "PSNR [dB]", "SSIM"], tablefmt="github", disable_numparse=True)
    table += f"\n\n{scores.count()} images, 8-bit RGB{border}."
    document = {
        name: {"PSNR": psnr if math.isfinite(psnr) else None, "SSIM": ssim} for name, (psnr, ssim) in means.items()
    }
    write_whole(out / "table.md", table + "\n")
    write_json(out / "metrics.json", document)
    write_csv(out / "metrics.csv", ("method", "PSNR", "SSIM"), [(name, *values) for name, values in means.items()])
    write_csv(out / "per_image.csv", ("method", "image", "PSNR", "SSIM"), scores.rows())
    return table
