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
    # Patch tokens of self-supervised transformers; timm downloads their weights.
    "dinov2": {
        "extractor": {"type": "TimmFeatures", "model": "vit_small_patch14_dinov2.lvd142m", "weights": "auto"},
        "patches": {"type": "SpatialSampler", "max_positions": 64},
    },
    "dinov3": {
        "extractor": {"type": "TimmFeatures", "model": "vit_small_patch16_dinov3.lvd1689m", "weights": "auto"},
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


def complete(preset: str | None, **arguments: Any) -> dict[str, Any]:
    """Return arguments, with those of a preset in the place of each None.

    Args:
        preset: one of :data:`PRESETS`; None means :data:`RECOMMENDED` where no extractor is given, else no preset.
        arguments: ``extractor``, ``queue`` and ``patches`` of :class:`D2SMLoss`.

    Raises:
        OptionError: for an unknown preset.
    """
    if preset is None:
        if arguments["extractor"] is not None:
            return arguments
        preset = RECOMMENDED
    if preset not in PRESETS:
        raise OptionError(f"D2SMLoss.preset: no preset '{preset}'{suggest(str(preset), PRESETS)}")
    return {name: PRESETS[preset].get(name) if value is None else value for name, value in arguments.items()}


def as_sampler(described: Any, kind: type, where: str) -> Any:
    """Return a queue or sampler itself, or the one that is described.

    Args:
        described: None, an object of the kind, an option block, a name (``"spatial"`` or ``"SpatialSampler"``), or, of
            a queue, its size.
        kind: base class of what may be meant.
        where: path of the key, for messages.

    Raises:
        OptionError: for anything else, or an unknown name or argument; the message lists the names of this kind.
    """
    if described is None or isinstance(described, kind):
        return described
    known = {name: cls for name, cls in LOSS_REGISTRY if isinstance(cls, type) and issubclass(cls, kind)}
    short = {name.removesuffix("Sampler").lower(): name for name in known}
    if isinstance(described, str):
        described = {"type": short.get(described, described)}
    elif isinstance(described, int) and not isinstance(described, bool) and kind.__name__ in known:
        return kind(described)
    if not isinstance(described, Mapping):
        raise OptionError(f"{where}: expected a {kind.__name__}, its name or an option block, got {described!r}")
    if "type" in described and described["type"] not in known:
        raise OptionError(
            f"{where}: no {kind.__name__} is called '{described['type']}'"
            f"{suggest(str(described['type']), {*known, *short})}"
        )
    return build(LOSS_REGISTRY, described, where)
