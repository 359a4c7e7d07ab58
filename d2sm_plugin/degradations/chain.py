"""Chains of degradations: their interface, building them from blocks of options, and running them.

A degradation is an object that is called with an image, float32 (H, W, C) with values about [0, 1], and a random
generator of NumPy, and returns the degraded image, of another height and width perhaps. All its randomness comes from
that generator, so that an image's degradation can be repeated. One that adds noise may return :class:`Noisy`, which
says its level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from d2sm_plugin.boundary import foreign_code
from d2sm_plugin.degradations.resizing import resized
from d2sm_plugin.errors import D2SMError, DataError, OptionError
from d2sm_plugin.registry import DEGRADATION_REGISTRY, build

Image = NDArray[np.float32]
#: Key of every degradation's block that the chain reads itself.
PROBABILITY = "probability"


class Noisy(NamedTuple):
    """A noisy image, and the standard deviation of its noise in the image's unit: one, or an array that broadcasts."""

    image: Image
    level: Image | float


class Degradation(Protocol):
    """Interface of degradations."""

    def __call__(self, image: Image, generator: np.random.Generator) -> Image | Noisy:
        """Degrade an image (H, W, C)."""


class Step:
    """One degradation of a chain: left out at random, and held to what it must return.

    Args:
        degradation: what is done.
        probability: of its being done.
        name: of it, for messages.
    """

    def __init__(self, degradation: Degradation, probability: float = 1.0, name: str | None = None) -> None:
        self.degradation, self.probability = degradation, probability
        self.name = name or type(degradation).__name__

    def __call__(self, image: Image, generator: np.random.Generator) -> Noisy:
        """Degrade an image, or return it as it is.

        Raises:
            ForeignError: for whatever the degradation raises.
            DataError: when it returns something else than an image of finite values and as many channels.
        """
        if self.probability < 1 and generator.random() >= self.probability:
            return Noisy(image, 0.0)
        with foreign_code(self.name):
            result = self.degradation(image, generator)
        degraded, level = result if isinstance(result, Noisy) else (result, 0.0)
        channels = image.shape[2]
        if not isinstance(degraded, np.ndarray) or degraded.ndim != 3 or degraded.shape[2] != channels:
            shape = getattr(degraded, "shape", type(degraded).__name__)
            raise DataError(f"{self.name} returned {shape}, expected an array (H, W, {channels})")
        if degraded.dtype.kind != "f":
            raise DataError(f"{self.name} returned values of type {degraded.dtype}, expected floats about [0, 1]")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf
            degraded = np.ascontiguousarray(degraded, np.float32)
        if not degraded.size or not np.isfinite(degraded).all():
            raise DataError(f"{self.name} returned an image that is empty, or holds inf or NaN")
        return Noisy(degraded, _full(level, degraded, self.name))


def _full(level: Image | float, image: Image, name: str) -> Image | float:
    """Return a noise level as one number, or as an array of the image's shape."""
    try:
        full = float(level) if np.ndim(level) == 0 else np.broadcast_to(np.asarray(level, np.float32), image.shape)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} returned a noise level that does not broadcast to the image ({error})") from error
    if not (np.isfinite(full).all() and np.min(full) >= 0):
        raise DataError(f"{name} returned a noise level that is negative, inf or NaN")
    return full


def run(steps: Iterable[Step], image: Image, generator: np.random.Generator) -> Noisy:
    """Run steps one after another.

    Returns:
        The image, and the level of all noise together as it was added: variances add up, and later steps (a blur, a
        JPEG file) leave it as it is. A map of levels is resized with the image.
    """
    variance: Image | float = 0.0
    for step in steps:
        image, level = step(image, generator)
        if isinstance(variance, np.ndarray) and variance.shape[:2] != image.shape[:2]:
            variance = resized(variance, image.shape[:2], "bilinear")
        variance = variance + level * level
    return Noisy(image, np.sqrt(variance))


def read_steps(blocks: Sequence[Mapping[str, Any] | Degradation], where: str) -> list[Step]:
    """Return the steps that a list describes.

    Args:
        blocks: option blocks ``{"type": NAME, **arguments}`` with an optional ``probability``, or degradations.
        where: path of the list, for messages.

    Raises:
        OptionError: for no list, an empty one, an unknown type or argument, or a value that cannot be used.
        ForeignError: for whatever else a constructor raises.
    """
    if isinstance(blocks, Mapping | str):
        raise OptionError(f"{where}: expected a list of degradations, got {blocks!r}; put it in brackets")
    if not blocks:
        raise OptionError(f"{where}: the list is empty; name a degradation, such as {{type: JPEG, quality: [60, 95]}}")
    return [_read_step(block, f"{where}.{number}") for number, block in enumerate(blocks)]


def _read_step(block: Mapping[str, Any] | Degradation, where: str) -> Step:
    if not isinstance(block, Mapping):
        if not callable(block):
            raise OptionError(f"{where}: expected a block {{type: NAME, ...}}, got {block!r}")
        return Step(block)
    probability = block.get(PROBABILITY, 1.0)
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise OptionError(f"{where}.{PROBABILITY}: expected a number from 0 to 1, got {probability!r}")
    arguments = {key: value for key, value in block.items() if key != PROBABILITY}
    try:
        degradation = build(DEGRADATION_REGISTRY, arguments, where)
    except D2SMError as error:
        raise error if str(error).startswith(where) else type(error)(f"{where}: {error}") from error
    if not callable(degradation):
        raise OptionError(f"{where}.type: {block['type']} cannot be called with an image and a generator")
    return Step(degradation, float(probability), f"{where}: {block['type']}")
