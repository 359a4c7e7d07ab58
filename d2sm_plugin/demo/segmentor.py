"""The segmentation network that ships with the package, and how well it reads generated street scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2sm_plugin.scenes.street_scenes import render_scene
from d2sm_plugin.seg.classes import CITYSCAPES
from d2sm_plugin.seg.confusion import SegScores
from d2sm_plugin.seg.scored_set import ScoredSet
from d2sm_plugin.seg.segmentor import Segmentor, build_segmentor

DEMO_CONFIG = "hrnet_tiny_street_scenes"
DEMO_CHECKPOINT = Path(__file__).parent / "weights" / "hrnet_tiny_street_scenes.pth"


def demo_segmentor(device: str | torch.device = "cpu") -> Segmentor:
    """Build the shipped network with its weights.

    Raises:
        DependencyError: without mmsegmentation.
    """
    return build_segmentor(DEMO_CONFIG, DEMO_CHECKPOINT, device=device)


def score_scenes(
    segmentor: Segmentor,
    seeds: Iterable[int],
    size: tuple[int, int] = (192, 384),
    sigma: float = 0.0,
    restore: Callable[[Tensor], Tensor] | None = None,
) -> SegScores:
    """Score a segmentor on generated scenes.

    Args:
        segmentor: with the 19 Cityscapes classes.
        seeds: scenes to use; the noise of a scene follows from its seed too.
        size: height and width of the scenes.
        sigma: noise level on the scale of 0 to 255, added before ``restore``.
        restore: maps (1, 3, H, W) images in [0,1], not clipped, to restored ones; None leaves them noisy.
    """
    scored = ScoredSet(segmentor, CITYSCAPES, "generated scenes", "scene {}".format)
    for seed in seeds:
        scene = render_scene(seed, size)
        noise = np.random.default_rng((seed, 1)).standard_normal(scene.image.shape)
        image = scene.image.astype(np.float32) / 255 + (noise * (sigma / 255)).astype(np.float32)
        batch = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        restored = batch if restore is None else restore(batch)
        scored.add(str(seed), restored[0], torch.from_numpy(scene.label))
    return scored.scores()
