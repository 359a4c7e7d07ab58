"""Large and small faces with their landmarks."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from d2sm_plugin.data.dataset_options import DatasetOptions, read_dataset_options
from d2sm_plugin.data.face_scaling import cut_distorted, reduce_face, scale_face
from d2sm_plugin.data.image_store import ImageStore, check_same_keys, open_images
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.faces.heatmaps import STRIDE, draw_heatmaps
from d2sm_plugin.faces.landmark_table import read_landmark_table
from d2sm_plugin.faces.landmarks import flip_points, point_set, rotate_points
from d2sm_plugin.registry import DATASET_REGISTRY, register


class FaceDatasetOptions(DatasetOptions):
    """Option keys of :class:`FaceDataset`."""

    dataroot_gt: str = Field(description="large faces: a folder, or an LMDB (NAME.lmdb); squares, unless size is given")
    dataroot_lq: str | None = Field(None, description="small faces with the same keys; none: made by reduction")
    size: PositiveInt | None = Field(
        None, description="side that large faces of any shape are scaled to (PIL's bicubic filter); none: as they are"
    )
    reduction: Literal["matlab", "pil"] = Field(
        "matlab", description="bicubic filter of small faces that are made here: MATLAB's imresize, or PIL's"
    )
    landmarks: str = Field(description="CSV image,x0,y0,x1,y1,... in pixels of the large faces")
    points: str = Field("ibug68", description="set of landmarks: ibug68, helen29 or celeba5")
    heatmap_sigma: PositiveFloat = Field(1.0, description="of the Gaussians, in cells")
    heatmap_stride: PositiveInt = Field(STRIDE, description="pixels of the large face for each cell of the heatmaps")
    io_backend: dict[str, Any] | None = Field(None, description="accepted for BasicSR's sake; the path decides")
    use_hflip: bool = Field(False, description="training: flip left-right at random, landmarks change places")
    use_rot: bool = Field(False, description="training: turn by 0, 90, 180 or 270 degrees at random")
    distort: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] | None = Field(
        None, description="training: [lowest, highest] height : width of the part that is scaled to the square"
    )
    num_images: PositiveInt | None = Field(None, description="use the first so many faces only; none: all")

    @field_validator("points")
    @classmethod
    def _known(cls, value: str) -> str:
        return point_set(value, "points").name

    @model_validator(mode="after")
    def _fits_phase(self) -> FaceDatasetOptions:
        unwanted = [name for name in ("use_hflip", "use_rot", "distort") if getattr(self, name)]
        if self.phase != "train" and unwanted:
            raise ValueError(
                f"{', '.join(unwanted)}: for training only; a '{self.phase}' dataset gives faces as they are"
            )
        if self.distort is not None and self.distort[0] > self.distort[1]:
            raise ValueError(f"distort: expected [lowest, highest], got {self.distort}")
        if self.size is not None and self.dataroot_lq is not None:
            raise ValueError("dataroot_lq: with size, small faces are made from the scaled ones; leave it out")
        return self


@register(DATASET_REGISTRY)
class FaceDataset(Dataset[dict[str, Any]]):
    """Faces for super-resolution with landmarks, and for training networks that find landmarks.

    Args:
        opt: option block, see :class:`FaceDatasetOptions`. ``scale`` (of the option file) is the ratio of the sizes.

    Each item is a dict with

    * ``gt``: float32 (3, H, W), RGB, [0, 1], the large face (128x128 in the publications); ``lq``: the small one;
    * ``landmarks``: float32 (P, 2), x and y in pixels of ``gt``, transformed as the image is;
    * ``gt_heatmaps``: float32 (P, H/s, W/s), s the ``heatmap_stride`` (4), see
      :func:`d2sm_plugin.faces.heatmaps.draw_heatmaps`;
    * ``key``, ``lq_path``, ``gt_path``: str.

    Raises:
        OptionError: for an unknown, missing or wrong option.
        DataError: when faces or landmarks are missing, damaged, or do not fit together.
    """

    options_model = FaceDatasetOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.options = read_dataset_options(self.options_model, opt)
        self.scale = int(opt.get("scale", 8))
        self.scheme = point_set(self.options.points, f"datasets.{self.options.phase}.points")
        self.large = open_images(self.options.dataroot_gt)
        self.small: ImageStore | None = None
        if self.options.dataroot_lq is not None:
            self.small = open_images(self.options.dataroot_lq)
            check_same_keys(self.large, self.small, "small face")
        self.keys = self.large.keys[: self.options.num_images]
        self.points = self._read_points(self.options.landmarks)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[index]
        large, small, points = self._read(key)
        if self.options.phase == "train":
            large, small, points = self._augment(large, small, points)
        gt, lq = _to_tensor(large), _to_tensor(small)
        landmarks = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
        stride = self.options.heatmap_stride
        size = (gt.shape[1] // stride, gt.shape[2] // stride)
        return {
            "lq": lq,
            "gt": gt,
            "landmarks": landmarks,
            "gt_heatmaps": draw_heatmaps(landmarks, size, stride, self.options.heatmap_sigma),
            "key": key,
            "lq_path": self.small.path(key) if self.small is not None else self.large.path(key),
            "gt_path": self.large.path(key),
        }

    def _read_points(self, path: str) -> dict[str, NDArray[np.float32]]:
        """Landmarks of every key; the table may name images with or without their extension."""
        table = read_landmark_table(path)
        rows = {os.path.splitext(name)[0]: row.points for name, row in table.items()}
        rows |= {name: row.points for name, row in table.items() if name in self.large}
        missing = [key for key in self.keys if key not in rows]
        if missing:
            raise DataError(
                f"{path}: {len(missing)} of the {len(self.keys)} faces in {self.large.root} have no landmarks in it "
                f"(first: '{missing[0]}'); give the table that was prepared with them"
            )
        count = len(rows[self.keys[0]])
        if count != self.scheme.count:
            raise OptionError(
                f"datasets.{self.options.phase}.points: '{self.scheme.name}' has {self.scheme.count} landmarks, but "
                f"{path} has {count} a face; name the set they belong to"
            )
        return rows

    def _read(self, key: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
        """Large and small face and landmarks, distorted and scaled where the options say so."""
        options, points = self.options, self.points[key]
        large = self.large.read_rgb(key)
        side = options.size or large.shape[0]
        if options.size is None:
            self._check_size(large, key)
        if options.distort is not None:
            large, points = cut_distorted(large, points, random.uniform(*options.distort))
        large, points = scale_face(large, points, side)
        self._check_size(large, key)
        if self.small is None or options.distort is not None:
            return large, reduce_face(large, self.scale, options.reduction), points
        return large, self._read_small(key, large), points

    def _check_size(self, large: NDArray[np.uint8], key: str) -> None:
        height, width = large.shape[:2]
        step = math.lcm(self.scale, self.options.heatmap_stride)
        if height != width or height % step:
            raise DataError(
                f"{self.large.describe(key)}: the face is {width}x{height} (width x height); expected a square whose "
                f"side is a multiple of {step}; prepare it with d2sm prepare faces, or set size"
            )

    def _read_small(self, key: str, large: NDArray[np.uint8]) -> NDArray[np.uint8]:
        assert self.small is not None  # asked before
        small = self.small.read_rgb(key)
        if small.shape[0] * self.scale != large.shape[0] or small.shape[1] * self.scale != large.shape[1]:
            raise DataError(
                f"{self.small.describe(key)}: the small face is {small.shape[1]}x{small.shape[0]} (width x height), "
                f"the large one {large.shape[1]}x{large.shape[0]}; with scale {self.scale} they do not fit"
            )
        return small

    def _augment(
        self, large: NDArray[np.uint8], small: NDArray[np.uint8], points: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
        options = self.options
        if options.use_hflip and random.random() < 0.5:
            points = flip_points(points, large.shape[1], self.scheme)
            large, small = large[:, ::-1], small[:, ::-1]
        if options.use_rot:
            quarters = random.randrange(4)
            points = rotate_points(points, large.shape[:2], quarters)
            large, small = np.rot90(large, quarters), np.rot90(small, quarters)
        return large, small, points


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).div_(255)
