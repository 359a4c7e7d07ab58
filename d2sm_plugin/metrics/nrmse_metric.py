"""Error of facial landmarks, in units of the face."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import DataError, OptionError, ShapeError, suggest
from d2sm_plugin.faces.landmark_table import read_landmark_table
from d2sm_plugin.faces.landmarks import IBUG68, PointSet, eye_centres, point_set
from d2sm_plugin.metrics.landmark_finder import shared_finder
from d2sm_plugin.registry import METRIC_REGISTRY, register

Points = NDArray[np.floating]


def _interocular(points: Points, scheme: PointSet) -> float:
    left, right = (points[corner] for corner in scheme.eye_corners)
    return float(np.hypot(*(right - left)))


def _interpupil(points: Points, scheme: PointSet) -> float:
    left, right = eye_centres(points, scheme)
    return float(np.hypot(*(right - left)))


def _width(points: Points, scheme: PointSet) -> float:
    return float(np.ptp(points[:, 0]))


def _eye_outer_width(points: Points, scheme: PointSet) -> float:
    return float(points[46, 0] - points[37, 0])


def _eye_dist(points: Points, scheme: PointSet) -> float:
    return float(points[[43, 46], 0].mean() - points[[37, 40], 0].mean())


#: What the error is divided by, measured on the true landmarks, in pixels.
#:
#: ``interocular``: distance of the outer corners of the eyes (300-W's usage), the one that is reported here.
#: ``interpupil``: distance of the centres of the eyes.
#: ``width``: horizontal extent of all landmarks; one of the three that the script of DICNet's authors computes.
#: ``eye_outer_width``, ``eye_dist``: its other two, as it computes them. They use the numbers 37, 40, 43 and 46 to
#: count points from 0, although these look like numbers that count from 1; so they are defined for 68 points only, and
#: are not what their names say.
NORMALISERS: dict[str, Callable[[Points, PointSet], float]] = {
    "interocular": _interocular,
    "interpupil": _interpupil,
    "width": _width,
    "eye_outer_width": _eye_outer_width,
    "eye_dist": _eye_dist,
}
REPORTED = "interocular"
_ONLY_68 = frozenset({"eye_outer_width", "eye_dist"})


def normalisers_of(scheme: PointSet) -> list[str]:
    """Return the names of the normalisers that a set of landmarks defines, the reported one first."""
    return [name for name in NORMALISERS if name not in _ONLY_68 or scheme.count == IBUG68.count]


def nrmse(predicted: Points, true: Points, point_set_name: str = "ibug68", normaliser: str = REPORTED) -> float:
    """Return the normalised root mean square error of one face's landmarks.

    The root of the mean over the landmarks of the squared distance, divided by the normaliser.

    Args:
        predicted: (P, 2), x and y in pixels.
        true: likewise.
        point_set_name: see :func:`d2sm_plugin.faces.landmarks.point_set`.
        normaliser: one of :data:`NORMALISERS`.

    Raises:
        OptionError: for an unknown normaliser or one that these landmarks do not define.
        ShapeError: when the numbers of landmarks do not fit, or the normaliser is not above 0.
    """
    scheme = point_set(point_set_name, "calculate_nrmse.points")
    if normaliser not in normalisers_of(scheme):
        reason = f" for '{scheme.name}'" if normaliser in NORMALISERS else ""
        raise OptionError(
            f"calculate_nrmse.normaliser: no '{normaliser}'{reason}{suggest(normaliser, normalisers_of(scheme))}"
        )
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if predicted.shape != (scheme.count, 2) or true.shape != (scheme.count, 2):
        raise ShapeError(
            f"calculate_nrmse: expected {scheme.count} landmarks ({scheme.name}) as ({scheme.count}, 2), got "
            f"{predicted.shape} and {true.shape}"
        )
    unit = NORMALISERS[normaliser](true, scheme)
    if not unit > 0:
        raise ShapeError(f"calculate_nrmse: the true landmarks have {normaliser} {unit:g}; it must be above 0")
    return float(np.sqrt(np.square(predicted - true).sum(axis=1).mean()) / unit)


@register(METRIC_REGISTRY)
def calculate_nrmse(
    img: NDArray[Any],
    img2: NDArray[Any],
    points: str = "ibug68",
    normaliser: str = REPORTED,
    checkpoint: str | Path | None = None,
    landmarks: str | Path | None = None,
    key: str | None = None,
) -> float:
    """Return the NRMSE of one face, lower is better; see :func:`nrmse`.

    Args:
        img: predicted landmarks (P, 2), x and y in pixels; or a restored face, uint8 (H, W, 3) BGR.
        img2: true landmarks (P, 2); or the clear face. (The names are those by which BasicSR calls its metrics.) With
            faces, the network of ``checkpoint`` finds the landmarks in both, and those in the clear one count as true,
            unless there are ``landmarks``.
        points: set of landmarks: ``ibug68``, ``helen29``, ``celeba5``.
        normaliser: ``interocular`` (reported), ``interpupil``, ``width``; for 68 points also ``eye_outer_width`` and
            ``eye_dist`` as the script of DICNet's authors has them.
        checkpoint: weights of a ``StackedHourglass``, for faces.
        landmarks: table of true landmarks (CSV ``image,x0,y0,...``) in pixels of the clear faces.
        key: name of the face in that table; validation gives it.

    Raises:
        OptionError: for an unknown set or normaliser, or faces without a checkpoint.
        DataError: when the table cannot be read or lacks the face.
        ShapeError: when these are neither landmarks of that set nor faces.
        CheckpointError: when the checkpoint does not fit.
    """
    if img.ndim != 3:
        return nrmse(img, img2, points, normaliser)
    if checkpoint is None:
        raise OptionError("calculate_nrmse.checkpoint: faces need the weights of a StackedHourglass to find landmarks")
    finder = shared_finder(str(checkpoint), points)
    if landmarks is None:
        predicted, true = finder.find(np.stack([face[..., ::-1] for face in (img, img2)]))
        return nrmse(predicted, true, points, normaliser)
    table = _shared_table(str(landmarks))
    if key is None or key not in table:
        raise DataError(f"{landmarks}: no landmarks of the face '{key}'")
    return nrmse(finder.find(img[None, ..., ::-1])[0], table[key], points, normaliser)


@lru_cache(maxsize=4)
def _shared_table(path: str) -> dict[str, NDArray[np.float32]]:
    """Points of each face, by its name with and without an ending; read once for the whole process."""
    table = read_landmark_table(path)
    return {os.path.splitext(name)[0]: row.points for name, row in table.items()} | {
        name: row.points for name, row in table.items()
    }


calculate_nrmse.better = "lower"  # type: ignore[attr-defined]
