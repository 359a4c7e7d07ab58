"""Large and small faces with their landmarks."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from basicsr.utils.matlab_functions import imresize
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from d2sm_plugin.data.dataset_options import DatasetOptions, read_dataset_options
from d2sm_plugin.data.image_store import ImageStore, check_same_keys, open_images
from d2sm_plugin.data.lmdb_store import share_with_host
from d2sm_plugin.errors import DataError, OptionError
from d2sm_plugin.faces.heatmaps import STRIDE, draw_heatmaps
from d2sm_plugin.faces.landmark_table import read_landmark_table
from d2sm_plugin.faces.landmarks import flip_points, point_set, rotate_points
from d2sm_plugin.registry import DATASET_REGISTRY, register

share_with_host()


class FaceDatasetOptions(DatasetOptions):
    """Option keys of :class:`FaceDataset`."""

    dataroot_gt: str = Field(description="large faces, all of one size: a folder, or an LMDB (NAME.lmdb)")
    dataroot_lq: str | None = Field(None, description="small faces with the same keys; none: made by bicubic reduction")
    landmarks: str = Field(description="CSV image,x0,y0,x1,y1,... in pixels of the large faces")
    points: str = Field("ibug68", description="set of landmarks: ibug68, helen29 or celeba5")
    heatmap_sigma: PositiveFloat = Field(1.0, description="of the Gaussians, in cells of 4 pixels")
    io_backend: dict[str, Any] | None = Field(None, description="accepted for BasicSR's sake; the path decides")
    use_hflip: bool = Field(False, description="training: flip left-right at random, landmarks change places")
    use_rot: bool = Field(False, description="training: turn by 0, 90, 180 or 270 degrees at random")
    distort: Annotated[list[PositiveFloat], Field(min_length=2, max_length=2)] | None = Field(
        None, description="training: [lowest, highest] height : width of the part that is stretched to the square"
    )
    num_images: PositiveInt | None = Field(None, description="use the first so many faces only; none: all")

    @model_validator(mode="after")
    def _fits_phase(self) -> FaceDatasetOptions:
        given = [name for name in ("use_hflip", "use_rot", "distort") if getattr(self, name)]
        if self.phase != "train" and given:
            raise ValueError(f"{', '.join(given)}: for training only; a '{self.phase}' dataset gives faces as they are")
        if self.distort is not None and self.distort[0] > self.distort[1]:
            raise ValueError(f"distort: expected [lowest, highest], got {self.distort}")
        return self


@register(DATASET_REGISTRY)
class FaceDataset(Dataset):
    """Faces for super-resolution with landmarks, and for training networks that find landmarks.

    Args:
        opt: option block, see :class:`FaceDatasetOptions`. ``scale`` (of the option file) is the ratio of the sizes.

    Each item is a dict with

    * ``gt``: float32 (3, H, W), RGB, [0, 1], the large face (128x128 in the publications); ``lq``: the small one;
    * ``landmarks``: float32 (P, 2), x and y in pixels of ``gt``, transformed as the image is;
    * ``gt_heatmaps``: float32 (P, H/4, W/4), see :func:`d2sm_plugin.faces.heatmaps.draw_heatmaps`;
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
        large = self.large.read_rgb(key)
        self._check_size(large, key)
        points = self.points[key]
        small = self._read_small(key, large)
        if self.options.phase == "train":
            large, small, points = self._augment(large, small, points)
        gt, lq = _to_tensor(large), _to_tensor(small)
        landmarks = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
        size = (gt.shape[1] // STRIDE, gt.shape[2] // STRIDE)
        return {
            "lq": lq,
            "gt": gt,
            "landmarks": landmarks,
            "gt_heatmaps": draw_heatmaps(landmarks, size, sigma=self.options.heatmap_sigma),
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

    def _check_size(self, large: NDArray[np.uint8], key: str) -> None:
        height, width = large.shape[:2]
        step = max(self.scale, STRIDE)
        if height != width or height % step or height % self.scale:
            raise DataError(
                f"{self.large.describe(key)}: the face is {width}x{height} (width x height); expected a square whose "
                f"side is a multiple of {step}; prepare it with tools/prepare_data.py faces"
            )

    def _read_small(self, key: str, large: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.small is None:
            return _reduce(large, self.scale)
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
        if options.distort is not None:
            large, points = stretch(large, points, random.uniform(*options.distort))
            small = _reduce(large, self.scale)
        if options.use_hflip and random.random() < 0.5:
            points = flip_points(points, large.shape[1], self.scheme)
            large, small = large[:, ::-1], small[:, ::-1]
        if options.use_rot:
            quarters = random.randrange(4)
            points = rotate_points(points, large.shape[:2], quarters)
            large, small = np.rot90(large, quarters), np.rot90(small, quarters)
        return large, small, points


def stretch(
    image: NDArray[np.uint8], points: NDArray[np.float32], ratio: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cut a part of a square image that holds all landmarks and stretch it to the square, as DICNet does for Helen.

    Args:
        image: uint8 (H, H, 3).
        points: (P, 2), x and y in pixels; those outside the image do not restrict the part.
        ratio: height : width of the part. Below 1 the part has the full width; above 1 the full height. It is kept
            large enough for the landmarks.

    Returns:
        The stretched image (H, H, 3) and its points.
    """
    side = image.shape[0]
    axis = 1 if ratio < 1 else 0  # of the coordinate along which the part is shorter
    low, high = np.clip([points[:, axis].min(), points[:, axis].max()], 0, side - 1)
    length = int(np.clip(round(side * min(ratio, 1 / ratio)), np.ceil(high - low) + 1, side))
    first = int(np.clip(round((low + high + 1 - length) / 2), max(0, np.ceil(high) + 1 - length), side - length))
    first = min(first, int(low))
    part = image[first : first + length] if axis == 1 else image[:, first : first + length]
    stretched = cv2.resize(part, (side, side), interpolation=cv2.INTER_CUBIC)
    moved = points.copy()
    moved[:, axis] = (points[:, axis] - first + 0.5) * (side / length) - 0.5
    return stretched, moved


def _reduce(image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Reduce as MATLAB's bicubic ``imresize`` does, to whole 8-bit values as a file would hold."""
    small = imresize(image.astype(np.float32) / 255, 1 / scale)
    return (np.clip(small, 0, 1) * 255).round().astype(np.uint8)


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).div_(255)
