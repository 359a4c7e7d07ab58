"""Training of a network that finds landmarks in faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2sm_plugin.archs.interface import gather_inputs
from d2sm_plugin.faces.face_pictures import draw_points
from d2sm_plugin.faces.heatmaps import read_heatmaps
from d2sm_plugin.metrics.images import to_uint8
from d2sm_plugin.metrics.nrmse_metric import nrmse
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.models.restore import autocast, evaluating
from d2sm_plugin.registry import MODEL_REGISTRY, register


@register(MODEL_REGISTRY)
class AlignmentModel(D2SMModel):
    """Training of landmark detection; the objectives take ``heatmaps`` or ``stacks`` and ``gt_heatmaps``.

    Nothing is restored: the pictures of a validation are the faces with true (green) and predicted (red) landmarks.
    """

    measures: Mapping[str, str] = {"nrmse": "lower"}

    def find(self, batch: Mapping[str, Any]) -> Tensor:
        """Return predicted landmarks (B, P, 2), x and y in pixels of ``gt``."""
        network = self.best_network
        with evaluating(network), torch.inference_mode(), autocast(self.amp if self.is_train else None, self.device):
            outputs = network(*gather_inputs(network, self.to_device(batch)))
        return read_heatmaps(outputs["heatmaps"].float())

    def restore(self, batch: Mapping[str, Any], tile: int | None = None, tile_overlap: int | None = None) -> Tensor:
        """Return the faces with their landmarks drawn, (B, 3, H, W), [0, 1]."""
        points = self.find(batch).cpu().numpy()
        pictures = []
        for face, true, predicted in zip(batch["gt"], batch["landmarks"], points, strict=True):
            picture = draw_points(to_uint8(face), true.numpy(), (0, 255, 0))
            pictures.append(draw_points(picture, predicted, (255, 0, 0)))
        stacked = np.stack(pictures).transpose(0, 3, 1, 2)
        return torch.from_numpy(stacked).float().div_(255)

    def measure(self, batch: Mapping[str, Any], restored: Tensor) -> list[dict[str, float]]:
        """Return what is measured of each face beside the metrics of images: the landmarks' NRMSE."""
        scheme = next(block["points"] for block in self.opt["datasets"].values() if "points" in block)
        pairs = zip(self.find(batch).cpu().numpy(), batch["landmarks"].numpy(), strict=True)
        return [{"nrmse": nrmse(predicted, true, scheme)} for predicted, true in pairs]
