"""The picture of an embedding: a panel for each method, over the clear samples."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.studies.evaluation.class_scores import ClassScores
from d2sm_plugin.studies.evaluation.method_colours import colour_of
from d2sm_plugin.studies.evaluation.seg_methods import CLEAN
from d2sm_plugin.studies.evaluation.separation import Separation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CLEAR = "#555555"
_COLUMNS = 4
_PANEL = 3.4  # inches


def draw(points: Mapping[str, NDArray[np.float64]], scores: Mapping[str, Separation], title: str, lines: bool) -> bytes:
    """Return a PNG of jointly embedded sets.

    Args:
        points: (N, 2) of every method and, last, of the clear samples, row by row the same samples.
        scores: of every method, for the titles of the panels.
        title: of the picture.
        lines: join each sample with its clear one.
    """
    methods = [name for name in points if name != CLEAN]
    figure, panels = _panels(points, len(methods))
    for i, (axes, name) in enumerate(zip(panels, methods, strict=True)):
        _panel(axes, points[name], points[CLEAN], colour_of(i, name), name, lines)
        axes.set_title(f"{name}\nown nearest {scores[name].own_nearest:.0%}, mixed {scores[name].mixed:.0%}", size=10)
    return _picture(figure, panels, title, [*methods, CLEAN])


def draw_classes(
    points: Mapping[str, NDArray[np.float64]], scores: Mapping[str, ClassScores], title: str, classes: Sequence[str]
) -> bytes:
    """Return a PNG of jointly embedded sets, a panel for each, clear samples too, with a colour for each class.

    Args:
        points: (N, 2) of every set, row by row the same samples.
        scores: of every set, for the titles of the panels.
        title: of the picture.
        classes: of the samples, N names.
    """
    import matplotlib

    names, kinds = list(points), sorted(set(classes))
    colours = matplotlib.colormaps["tab10" if len(kinds) <= 10 else "turbo"].resampled(max(10, len(kinds)))
    figure, panels = _panels(points, len(names))
    for axes, name in zip(panels, names, strict=True):
        for i, kind in enumerate(kinds):
            of_kind = points[name][[class_name == kind for class_name in classes]]
            axes.scatter(of_kind[:, 0], of_kind[:, 1], s=9, color=colours(i), alpha=0.75, linewidths=0, label=kind)
        _bare(axes)
        nearest, _, clusters = scores[name]
        axes.set_title(f"{name}\nclass nearest {nearest:.0%}, clusters {clusters:.2f}", size=10)
    return _picture(figure, panels, title, kinds)


def _panels(points: Mapping[str, NDArray[np.float64]], count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # no window, and no global state

    rows = -(-count // _COLUMNS)
    columns = -(-count // rows)  # as even as can be: five are three and two
    size = (max(5.0, _PANEL * columns), (_PANEL + 0.45) * rows + 0.7)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    joint = np.vstack(list(points.values()))
    middle, half = (joint.max(0) + joint.min(0)) / 2, 0.53 * np.ptp(joint, 0).max()
    panels[0].set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, list(panels[:count])


def _picture(figure: Figure, panels: Sequence[Axes], title: str, order: Sequence[str]) -> bytes:
    """Encoded PNG with a legend in this order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.suptitle(title, size=11)
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    shown = [handles[name] for name in order]
    columns = min(len(order), 2 + 2 * len(panels))
    legend = figure.legend(shown, order, loc="outside lower center", ncols=columns, markerscale=2.5)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _panel(
    axes: Axes, points: NDArray[np.float64], clear: NDArray[np.float64], colour: str, name: str, lines: bool
) -> None:
    from matplotlib.collections import LineCollection

    if lines:
        axes.add_collection(
            LineCollection(list(np.stack([points, clear], 1)), colors=colour, linewidths=0.4, alpha=0.25)
        )
    axes.scatter(clear[:, 0], clear[:, 1], s=9, color=_CLEAR, alpha=0.7, linewidths=0, label=CLEAN)
    axes.scatter(points[:, 0], points[:, 1], s=9, color=colour, alpha=0.75, linewidths=0, label=name)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_box_aspect(1)
