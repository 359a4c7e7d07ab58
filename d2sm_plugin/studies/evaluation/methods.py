"""The rows of a comparison: where each method's images come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.data.image_store import ImageStore
from d2sm_plugin.errors import DataError

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: of the row.
        read: returns the uint8 RGB image (H, W, 3) of a key.
        describe: names the file or record of a key, for messages.
        computed: the images are made as they are read (by a network), not taken from files; nothing is read ahead.
    """

    name: str
    read: Callable[[str], Image]
    describe: Callable[[str], str]
    computed: bool = False


def stored_method(name: str, store: ImageStore, keys: Sequence[str], reference: str) -> Method:
    """Return the method of a set of files or records.

    Args:
        name: of the row.
        store: its keys are ``keys``, or ``keys`` with one and the same ``_suffix``, as testing can add.
        keys: the images that are compared.
        reference: names the set that ``keys`` come from, for messages.

    Raises:
        DataError: when the sets are unequal; the message names the first image that only one of them has.
    """
    suffix = _common_suffix(store, keys)
    wanted = {key + suffix for key in keys}
    for only, where, missing in (
        (sorted(wanted.difference(store.keys)), reference, store.root),
        (sorted(set(store.keys) - wanted), store.root, reference),
    ):
        if only:
            raise DataError(
                f"{missing}: it lacks {len(only)} of the images of {where} (first: '{only[0]}'); the sets must hold "
                f"images of the same names"
            )
    return Method(name, lambda key: store.read_rgb(key + suffix), lambda key: store.describe(key + suffix))


def read_like(method: Method, key: str, reference: Image) -> Image:
    """Return a method's image of a key.

    Raises:
        DataError: when its size is not that of ``reference``, the clean image.
    """
    image = method.read(key)
    if image.shape != reference.shape:
        raise DataError(
            f"{method.describe(key)}: the image is {image.shape[1]}x{image.shape[0]} (width x height), the clean one "
            f"{reference.shape[1]}x{reference.shape[0]}; they must be equal"
        )
    return image


def spread(keys: Sequence[str], count: int) -> set[str]:
    """Choose ``count`` keys, evenly spread from the first to the last."""
    positions = np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)
    return {keys[position] for position in positions}


def _common_suffix(store: ImageStore, keys: Sequence[str]) -> str:
    """The suffix that testing adds to every name (``KEY_SUFFIX.png``); empty where the names are equal."""
    if keys[0] in store:
        return ""
    candidates = {key[len(keys[0]) :] for key in store.keys if key.startswith(f"{keys[0]}_")}
    fitting = [suffix for suffix in sorted(candidates) if all(key + suffix in store for key in keys)]
    return fitting[0] if len(fitting) == 1 else ""
