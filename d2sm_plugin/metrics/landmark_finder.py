"""A trained alignment network as a measuring instrument: faces in, landmarks out."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from numpy.typing import NDArray

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.faces.heatmaps import Refinement, read_heatmaps
from d2sm_plugin.faces.landmarks import point_set
from d2sm_plugin.registry import build
from d2sm_plugin.weights import load_weights, read_weights

_STACK = re.compile(r"(?:stacks\.(\d+)\.predict|hg(\d+)_conv_pred)\.weight")


class LandmarkFinder:
    """Finder of landmarks with a ``StackedHourglass``, whose size is read from its checkpoint.

    Args:
        checkpoint: weights trained with ``AlignmentModel``, or the published ``HG_68_CelebA.pth``.
        points: set of landmarks that it was trained for.
        device: where it runs; None for a GPU where there is one.

    Raises:
        CheckpointError: when the file is no checkpoint of a StackedHourglass, or one for another number of landmarks.
    """

    def __init__(
        self, checkpoint: str | Path, points: str = "ibug68", device: str | torch.device | None = None
    ) -> None:
        self.scheme = point_set(points)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        heads = {name: tensor for name, tensor in read_weights(checkpoint).items() if _STACK.fullmatch(name)}
        if not heads:
            raise CheckpointError(f"{checkpoint}: no checkpoint of a StackedHourglass; train one with d2sm train")
        num_points, num_feat = next(iter(heads.values())).shape[:2]
        if num_points != self.scheme.count:
            raise CheckpointError(
                f"{checkpoint}: the network finds {num_points} landmarks, but '{points}' has {self.scheme.count}; name "
                f"the set it was trained for"
            )
        block = {"type": "StackedHourglass", "num_points": num_points, "num_stack": len(heads), "num_feat": num_feat}
        self.network = build(ARCH_REGISTRY, block, "alignment network").eval().requires_grad_(False)
        load_weights(self.network, checkpoint)
        self.network.to(self.device)

    def find(self, faces: NDArray[np.uint8], refinement: Refinement = "quarter") -> NDArray[np.float32]:
        """Return landmarks (B, P, 2), x and y in pixels, of faces uint8 (B, H, W, 3) RGB.

        Args:
            faces: H and W multiples of 64.
            refinement: see :func:`d2sm_plugin.faces.heatmaps.read_heatmaps`.

        Raises:
            ShapeError: for another size.
        """
        images = torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float().div(255)
        with torch.inference_mode():
            heatmaps = self.network(images.to(self.device))["heatmaps"]
        return read_heatmaps(heatmaps, refinement=refinement).cpu().numpy()


@lru_cache(maxsize=2)
def shared_finder(checkpoint: str, points: str) -> LandmarkFinder:
    """Return the finder of a checkpoint, loaded once for the whole process."""
    return LandmarkFinder(checkpoint, points)
