"""Separation of restored samples from clear ones: scores of a two-sample comparison."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import OptionError
from d2sm_plugin.extras import missing

#: Neighbours that are looked at, and parts of the cross-validation.
NEIGHBOURS, FOLDS = 10, 5
# Inverse of the regularisation of logistic regression: there are more features than samples.
_STRENGTH = 0.01

Features = NDArray[np.float64]


class Separation(NamedTuple):
    """Scores of one method.

    Attributes:
        own_nearest: share of restored samples whose nearest clear sample is their own, in [0, 1].
        mixed: mean share of clear samples among the nearest neighbours of a restored one, in [0, 1]: 0 when the sets
            lie apart, 0.5 when they are one.
        silhouette: of restored against clear, in [-1, 1]: near 0 when they are one, near 1 when they lie apart.
        linear: share of held-out samples that logistic regression assigns rightly to restored or clear, in [0, 1]: 0.5
            when they cannot be told apart.
        nearest: likewise for the majority of the nearest neighbours.
    """

    own_nearest: float
    mixed: float
    silhouette: float
    linear: float
    nearest: float


def separation(restored: Features, clear: Features, image: NDArray[np.int64]) -> Separation:
    """Score how well restored samples can be told from clear ones; directions count, lengths do not.

    Classifiers are judged on images that they were not fitted to (classifier two-sample test: Lopez-Paz and Oquab,
    "Revisiting classifier two-sample tests", ICLR 2017), so that a sample and its partner are never on both sides.

    Args:
        restored: features (N, D).
        clear: features (N, D); row i belongs to row i of ``restored``.
        image: (N,), number of the image that a sample comes from.

    Raises:
        OptionError: for fewer samples or images than neighbours or folds ask for.
        DependencyError: when scikit-learn is missing.
    """
    check_enough(len(restored), len(np.unique(image)), "features")
    sklearn = import_sklearn()
    x, y = unit(restored), unit(clear)
    joint, is_clear = np.vstack([x, y]), np.repeat([False, True], len(x))
    similarity = x @ y.T
    nearest = similarity.diagonal() >= similarity.max(1) - 1e-12
    return Separation(
        float(nearest.mean()),
        float(clear_neighbours(x, y, NEIGHBOURS).mean()),
        float(sklearn["silhouette_score"](joint, is_clear)),
        *(_accuracy(kind, joint, is_clear, np.tile(image, 2), sklearn) for kind in ("linear", "nearest")),
    )


def check_enough(samples: int, images: int, where: str) -> None:
    """Raise an OptionError, which begins with ``where``, for too few samples or too few images that they are of."""
    if samples <= NEIGHBOURS + 1 or images < FOLDS:
        raise OptionError(
            f"{where}: {samples} samples of {images} images are too few for scores with {NEIGHBOURS} neighbours and "
            f"{FOLDS} folds of images: they take {NEIGHBOURS + 2} samples of {FOLDS} images at least; take more "
            f"images, or smaller windows"
        )


def clear_neighbours(restored: Features, clear: Features, count: int) -> NDArray[np.float64]:
    """Return the share of clear samples among the nearest neighbours of each restored one, (N,).

    Neighbours are sought among all restored and clear samples but itself and its own clear one, of which there is no
    other in either set: with them the share of two equal sets would be above a half. Equally distant ones share places.

    Args:
        restored: (N, D).
        clear: (N, D), in the same order.
        count: of neighbours.
    """
    share = np.empty(len(restored))
    y_square, x_square = (np.square(side).sum(1) for side in (clear, restored))
    for i, sample in enumerate(restored):
        to_clear = y_square - 2 * clear @ sample + x_square[i]
        to_restored = x_square - 2 * restored @ sample + x_square[i]
        to_clear[i] = to_restored[i] = np.inf
        distances = np.concatenate([to_clear, to_restored])
        limit = np.partition(distances, count - 1)[count - 1]
        tolerance = 1e-12 * max(1.0, x_square[i])
        nearer, tied = distances < limit - tolerance, np.abs(distances - limit) <= tolerance
        from_clear = slice(0, len(clear))
        places = count - nearer.sum()
        share[i] = (nearer[from_clear].sum() + places * tied[from_clear].mean() * len(clear) / tied.sum()) / count
    return share


def unit(features: Features) -> Features:
    """Return features (N, D) divided by their lengths, in float64; one of zeros stays zero."""
    features = features.astype(np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-10)


def import_sklearn() -> dict[str, Any]:
    """Return what is used of scikit-learn, by name.

    Raises:
        DependencyError: when it is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.linear_model import LogisticRegression
        from sklearn.manifold import TSNE
        from sklearn.metrics import adjusted_rand_score, silhouette_score
        from sklearn.model_selection import GroupKFold
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise missing("sklearn", "measuring how features separate", error) from error
    used = (KMeans, LogisticRegression, TSNE, adjusted_rand_score, silhouette_score, GroupKFold, KNeighborsClassifier)
    return {item.__name__: item for item in used}


def _accuracy(
    kind: str, joint: Features, is_clear: NDArray[np.bool_], image: NDArray[np.int64], sklearn: dict[str, Any]
) -> float:
    """Share of samples that a classifier fitted to other images assigns rightly."""
    right = np.zeros(len(joint), dtype=bool)
    for fitted, held_out in sklearn["GroupKFold"](FOLDS).split(joint, is_clear, image):
        if kind == "linear":
            mean, deviation = joint[fitted].mean(0), joint[fitted].std(0)
            scaled = (joint - mean) / np.where(deviation > 0, deviation, 1)
            model = sklearn["LogisticRegression"](C=_STRENGTH, max_iter=1000)
        else:
            scaled, model = joint, sklearn["KNeighborsClassifier"](NEIGHBOURS + 1)
        predicted = model.fit(scaled[fitted], is_clear[fitted]).predict(scaled[held_out])
        right[held_out] = predicted == is_clear[held_out]
    return float(right.mean())
