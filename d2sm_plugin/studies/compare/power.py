"""Power of a suite: the smallest difference that its frames and seeds, or more of them, tell from 0."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from d2sm_plugin.studies.compare.intervals import Comparison
from d2sm_plugin.studies.compare.tables import set_title, shown, title

_SEEDS = (1, 2, 3, 5, 10)
_FRAMES = (1, 2, 4)  # times those of the test set


def power_table(comparisons: Sequence[Comparison]) -> str:
    """Return, in Markdown, the smallest difference that so many frames and seeds tell from 0, by variant and column.

    Args:
        comparisons: of the suite. Variances follow from at least two seeds and two blocks; others are named below.
    """
    lines, unknown = [], []
    for comparison in comparisons:
        place = f"{comparison.variant}: {set_title(comparison.column)} {title(comparison.column.metric)}"
        variances = comparison.totals.variances()
        if variances.seed is None:
            unknown.append(place)
            continue
        for times in _FRAMES:
            detectable = [variances.detectable(seeds, times * comparison.totals.blocks) for seeds in _SEEDS]
            cells = ["-" if value is None else shown(value, comparison.column.metric) for value in detectable]
            lines.append(
                [
                    place if times == 1 else "",
                    times * comparison.totals.frames,
                    times * comparison.totals.blocks,
                    *cells,
                ]
            )
    headers = ["", "frames", "blocks", *(f"{n} seed{'s' if n > 1 else ''}" for n in _SEEDS)]
    parts = [
        "Smallest difference whose 95 % interval leaves out 0 with a probability of 80 %:",
        tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True),
    ]
    if unknown:
        parts.append(f"Unknown from one seed or one block: {'; '.join(unknown)}.")
    return "\n\n".join(parts)
