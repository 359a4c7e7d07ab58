"""Short ways to say what D2SM compares: presets by name, samplers by name, queues by size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.registry import LOSS_REGISTRY, build

#: Name -> arguments of D2SMLoss.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Positions of a late map of a small network: cheaper than windows.
    "positions": {
        "extractor": {"type": "TimmFeatures", "model": "tf_efficientnet_lite0", "weights": "auto", "stride": 16},
        "patches": {"type": "SpatialSampler", "max_positions": 64},
    },
    # The paper's denoising experiments: section 4.1 and appendix A.
    "paper": {
        "extractor": {"type": "VGG19Features", "layer": "fc7", "weights": "imagenet"},
        "patches": {"type": "PatchSampler", "size": 224, "stride": 56},
        "queue": {"type": "QueueSampler", "size": 4096},
    },
}
#: The preset where neither one nor an extractor is named.
RECOMMENDED = "positions"


def complete(preset: str | None, **given: Any) -> dict[str, Any]:
    """Return the arguments given, with those of a preset in the place of each None.

    Args:
        preset: one of :data:`PRESETS`; None means :data:`RECOMMENDED` where no extractor is given, else no preset.
        given: ``extractor``, ``queue`` and ``patches`` of :class:`D2SMLoss`.

    Raises:
        OptionError: for an unknown preset.
    """
    if preset is None:
        if given["extractor"] is not None:
            return given
        preset = RECOMMENDED
    if preset not in PRESETS:
        raise OptionError(f"D2SMLoss.preset: no preset '{preset}'{suggest(str(preset), PRESETS)}")
    return {name: PRESETS[preset].get(name) if value is None else value for name, value in given.items()}


def as_sampler(given: Any, kind: type, where: str) -> Any:
    """Return a queue or sampler itself, or the one that is described.

    Args:
        given: None, an object of the kind, an option block, a name (``"spatial"`` or ``"SpatialSampler"``), or, of a
            queue, its size.
        kind: base class of what may be meant.
        where: path of the key, for messages.

    Raises:
        OptionError: for anything else, or an unknown name or argument; the message lists the names of this kind.
    """
    if given is None or isinstance(given, kind):
        return given
    known = {name: cls for name, cls in LOSS_REGISTRY if isinstance(cls, type) and issubclass(cls, kind)}
    short = {name.removesuffix("Sampler").lower(): name for name in known}
    if isinstance(given, str):
        given = {"type": short.get(given, given)}
    elif isinstance(given, int) and not isinstance(given, bool) and kind.__name__ in known:
        return kind(given)
    if not isinstance(given, Mapping):
        raise OptionError(f"{where}: expected a {kind.__name__}, its name or an option block, got {given!r}")
    if "type" in given and given["type"] not in known:
        raise OptionError(
            f"{where}: no {kind.__name__} is called '{given['type']}'{suggest(str(given['type']), {*known, *short})}"
        )
    return build(LOSS_REGISTRY, given, where)
