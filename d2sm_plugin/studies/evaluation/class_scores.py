"""Classes of images in a feature space: how far those of restored images stay together, and with their clear ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.errors import OptionError
from d2sm_plugin.studies.evaluation.separation import NEIGHBOURS, Features, import_sklearn, unit


class ClassScores(NamedTuple):
    """Scores of one method by classes; all are 1 where every class is a cluster of its own.

    Attributes:
        class_nearest: mean share of samples of its own class among the 10 clear samples nearest to a restored one, its
            own clear one left out, in [0, 1].
        class_silhouette: of the classes among the restored samples, in [-1, 1].
        clusters: agreement of the classes with as many clusters (k-means) of the restored samples: adjusted Rand index,
            at most 1 and about 0 by chance (Hubert and Arabie, Journal of Classification, 1985).
    """

    class_nearest: float
    class_silhouette: float
    clusters: float


def classes_of(keys: Sequence[str], root: str) -> list[str]:
    """Return the class of each image: the folder that it lies in.

    Args:
        keys: of the images, ``cat/0001``.
        root: of the images, for messages.

    Raises:
        OptionError: when there are fewer than two folders, or one with fewer than two images.
    """
    classes = [key.rpartition("/")[0] for key in keys]
    counts = {name: classes.count(name) for name in dict.fromkeys(classes)}
    if len(counts) < 2:
        raise OptionError(f"{root}: --classes takes a folder of images for each class, and there is one folder alone")
    lonely = [name for name, count in counts.items() if count < 2]
    if lonely:
        raise OptionError(f"{root}: --classes takes two images of each class, and '{lonely[0] or '.'}' has one")
    return classes


def class_scores(restored: Features, clear: Features, classes: NDArray[np.int64], seed: int) -> ClassScores:
    """Score how well classes keep together; directions of features count, lengths do not.

    Args:
        restored: features (N, D).
        clear: features (N, D); row i belongs to row i of ``restored``.
        classes: (N,), of the samples.
        seed: of k-means.

    Raises:
        DependencyError: when scikit-learn is missing.
    """
    sklearn = import_sklearn()
    x, y = unit(restored), unit(clear)
    similarity = x @ y.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]
    means = sklearn["KMeans"](len(np.unique(classes)), n_init=10, random_state=seed)
    return ClassScores(
        float((classes[nearest] == classes[:, None]).mean()),
        float(sklearn["silhouette_score"](x, classes)),
        float(sklearn["adjusted_rand_score"](classes, means.fit_predict(x))),
    )
