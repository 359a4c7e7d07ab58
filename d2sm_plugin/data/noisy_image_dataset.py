"""Clean images with noise added, or degraded otherwise, as they are read."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor
from torch.utils.data import Dataset

from d2sm_plugin.blocks import at_key
from d2sm_plugin.data.dataset_options import DatasetOptions, IoBackend, read_dataset_options
from d2sm_plugin.data.image_store import ImageStore, LmdbStore, check_same_keys, is_lmdb, looked_at, open_images
from d2sm_plugin.data.noise import (
    NOISE_SEED,
    generator_for_key,
    noise_for_key,
    random_generator,
    random_noise,
    random_noise_seed,
    random_sigma,
)
from d2sm_plugin.degradations.chain import Step, read_steps, run
from d2sm_plugin.degradations.resizing import fitted
from d2sm_plugin.errors import D2SMError, DataError, OptionError
from d2sm_plugin.registry import DATASET_REGISTRY, register

IGNORE_INDEX = 255
#: Standard deviation on the 0-255 scale.
NoiseLevel = Annotated[float, Field(ge=0, le=255)]


class NoisyImageDatasetOptions(DatasetOptions):
    """Option keys of :class:`NoisyImageDataset`."""

    dataroot_gt: str = Field(description="clean images: a folder, or an LMDB (NAME.lmdb)")
    dataroot_label: str | None = Field(None, description="label maps with the same keys: a folder or an LMDB")
    io_backend: IoBackend | None = Field(None, description="{type: lmdb} or {type: disk}; none: whatever is there")
    gt_size: PositiveInt | None = Field(None, description="side of the random crop in training; none: whole images")
    sigma_range: Annotated[list[NoiseLevel], Field(min_length=2, max_length=2)] | None = Field(
        None, description="[lowest, highest] noise level in training, 0-255 scale, uniform for each image"
    )
    sigma: NoiseLevel | None = Field(None, description="one fixed noise level, 0-255 scale")
    degradations: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = Field(
        None, description="in place of sigma: blocks such as {type: JPEG, quality: [60, 95]}, one after another"
    )
    noise_on: Literal["workers", "device"] = Field(
        "workers", description="training: made by the processes that read, or on the model's device (other noise)"
    )
    use_hflip: bool = Field(False, description="training: flip left-right at random")
    use_rot: bool = Field(False, description="training: flip up-down and transpose at random")
    clip: bool = Field(False, description="clamp noisy images to [0, 1]")
    color: Literal["rgb", "gray"] = Field("rgb", description="gray: images of one channel")
    num_classes: PositiveInt | None = Field(None, description="labels must lie below it or be 255 (ignore)")
    num_images: PositiveInt | None = Field(None, description="use the first so many images only; none: all")

    @field_validator("sigma_range")
    @classmethod
    def _ordered(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"expected [lowest, highest], got {value}")
        return value

    @model_validator(mode="after")
    def _fits_phase(self) -> NoisyImageDatasetOptions:
        levels = [name for name in ("sigma", "sigma_range") if getattr(self, name) is not None]
        if levels and self.degradations is not None:
            raise at_key(levels[0], "with degradations, noise is one of them: {type: GaussianNoise, sigma: 25}")
        if self.phase == "train":
            if len(levels) != 1 and self.degradations is None:
                raise ValueError("training needs either sigma_range: [lowest, highest] or one sigma, or degradations")
        else:
            if self.sigma is None and self.degradations is None:
                raise ValueError(
                    f"a '{self.phase}' dataset needs sigma, one fixed noise level such as 25, or degradations"
                )
            if self.noise_on == "device":
                raise at_key("noise_on", f"for training only; in a '{self.phase}' dataset, noise follows from the key")
            training_only = ("sigma_range", "gt_size", "use_hflip", "use_rot")
            unwanted = [name for name in training_only if getattr(self, name)]
            if unwanted:
                raise ValueError(
                    f"{', '.join(unwanted)}: for training only; a '{self.phase}' dataset gives whole images"
                )
        if self.noise_on == "device" and (self.degradations is not None or self.clip):
            other = "clip" if self.degradations is None else "degradations"
            raise at_key("noise_on", f"on the device, Gaussian noise is added and nothing else; remove it or {other}")
        if self.num_classes is not None and self.dataroot_label is None:
            raise ValueError("num_classes checks labels; give dataroot_label too, or remove it")
        return self


@register(DATASET_REGISTRY)
class NoisyImageDataset(Dataset[dict[str, Any]]):
    """Pairs of a clean image and the same image with additive white Gaussian noise, or under other degradations.

    In training the noise level is drawn for each image and the noise is new every time, from the global generators of
    ``random`` and ``torch``. In validation the level is fixed and the noise of an image follows from its key, so that
    figures repeat on any machine. The same holds for ``degradations``, which take the place of ``sigma``; ranges of
    theirs are drawn from by the key as well. What they make of an image is resized, where it has another size, to that
    of the clean image over the option file's ``scale``: by area where it shrinks, by cubic interpolation where it
    grows.

    Args:
        opt: option block, see :class:`NoisyImageDatasetOptions`; keys of the pipeline are ignored.

    Each item is a dict with

    * ``lq``, ``gt``: float32 (C, H, W), RGB, or one channel with ``color: gray``; ``gt`` in [0, 1], ``lq`` beyond it
      where the noise leads, unless ``clip`` is set;
    * ``noise_seed`` (with ``noise_on: device``, in place of ``lq``): int64 (), from which
      :func:`~d2sm_plugin.data.noise.with_seeded_noise` makes ``lq``, as the plugin's models do with their batches;
    * ``sigma``: float32 (1, 1, 1), noise level / 255; with degradations the root mean square of ``sigma_map``;
    * ``sigma_map`` (with degradations): float32 (C, H, W) like ``lq``, noise level / 255 of each value as the noise was
      added, before what later degradations make of it; 0 without noise;
    * ``label`` (with ``dataroot_label``): int64 (H, W), train ids, 255 = ignore, cut and flipped as the image;
    * ``key``, ``lq_path``, ``gt_path``: str. For an LMDB the paths are the key, as in BasicSR.

    Raises:
        OptionError: for an unknown, missing or wrong option.
        DataError: when data are missing, damaged, smaller than the crop, or labels do not belong to the images.
    """

    options_model = NoisyImageDatasetOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__()
        self.opt = opt
        self.options = read_dataset_options(self.options_model, opt)
        self.images = self._open("dataroot_gt", self.options.dataroot_gt)
        self.labels: ImageStore | None = None
        if self.options.dataroot_label is not None:
            self.labels = self._open("dataroot_label", self.options.dataroot_label)
            check_same_keys(self.images, self.labels)
        self.keys = self.images.keys[: self.options.num_images]
        self.scale = int(opt.get("scale") or 1)
        self.steps: list[Step] | None = None
        if self.options.degradations is not None:
            self.steps = read_steps(self.options.degradations, "degradations")
            if self.scale < 1 or (self.options.gt_size or self.scale) < self.scale:
                raise OptionError(f"scale: expected 1 to gt_size ({self.options.gt_size}), got {self.scale}")
        self._check_heads()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[index]
        arrays = [self.images.read_rgb(key)]
        if self.labels is not None:
            arrays.append(self._read_label(self.labels, key, arrays[0].shape[:2]))
        if self.options.phase == "train":
            arrays = self._augment(self._crop(arrays, key))
        if self.steps is not None:
            self._check_size(arrays[0].shape[:2], key)
            arrays = [self._whole_multiple(array) for array in arrays]
        gt = self._to_tensor(arrays[0])
        item = self._noisy(gt, key) if self.steps is None else self._degraded(gt, key, self.steps)
        if self.options.clip:
            item["lq"].clamp_(0, 1)
        path = self.images.path(key)
        item |= {"gt": gt, "key": key, "lq_path": path, "gt_path": path}
        if self.labels is not None:
            item["label"] = torch.from_numpy(arrays[1].astype(np.int64))
        return item

    def _open(self, name: str, root: str) -> ImageStore:
        backend = self.options.io_backend
        if backend is not None and (backend.type == "lmdb") != is_lmdb(root):
            kind = "an LMDB" if is_lmdb(root) else "a folder of images (an LMDB's name ends with .lmdb)"
            raise OptionError(
                f"io_backend: type '{backend.type}', but {name} is {kind}: {root}; change the type or remove io_backend"
            )
        return open_images(root)

    def _check_heads(self) -> None:
        """Look at the heads of files, which shows small and damaged ones and unequal pairs before anything starts."""
        in_lmdbs = all(isinstance(store, LmdbStore) for store in (self.images, self.labels) if store is not None)
        for key in self.keys if in_lmdbs else looked_at(self.keys):
            size = self.images.size(key)
            self._check_size(size, key)
            if self.labels is not None:
                self._check_label_size(self.labels, self.labels.size(key), size, key)

    def _check_size(self, size: tuple[int, ...], key: str) -> None:
        crop = self.options.gt_size
        if self.steps is not None and min(size) < self.scale:
            raise DataError(
                f"{self.images.describe(key)}: the image is {size[1]}x{size[0]} (width x height), smaller than scale "
                f"{self.scale}; remove the image"
            )
        if crop is not None and min(size) < crop:
            raise DataError(
                f"{self.images.describe(key)}: the image is {size[1]}x{size[0]} (width x height), smaller than the "
                f"crop gt_size {crop}; lower gt_size or remove the image"
            )

    @staticmethod
    def _check_label_size(labels: ImageStore, label: tuple[int, ...], image: tuple[int, ...], key: str) -> None:
        if label != image:
            raise DataError(
                f"{labels.describe(key)}: the label map is {label[1]}x{label[0]} (width x height), its image "
                f"{image[1]}x{image[0]}; they must be equal"
            )

    def _read_label(self, labels: ImageStore, key: str, size: tuple[int, ...]) -> NDArray[np.uint8]:
        label = labels.read_label(key)
        self._check_label_size(labels, label.shape, size, key)
        if self.options.num_classes is not None:
            wrong = label[(label >= self.options.num_classes) & (label != IGNORE_INDEX)]
            if wrong.size:
                raise DataError(
                    f"{labels.describe(key)}: label value {wrong[0]} is outside the {self.options.num_classes} classes "
                    f"(0 to {self.options.num_classes - 1}, and {IGNORE_INDEX} = ignore); check num_classes or prepare "
                    f"the labels again"
                )
        return label

    def _crop(self, arrays: list[NDArray[Any]], key: str) -> list[NDArray[Any]]:
        """Cut the same random window out of all arrays; views, not copies."""
        crop = self.options.gt_size
        if crop is None:
            return arrays
        height, width = arrays[0].shape[:2]
        self._check_size((height, width), key)
        top = random.randint(0, height - crop)
        left = random.randint(0, width - crop)
        return [array[top : top + crop, left : left + crop] for array in arrays]

    def _augment(self, arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """Flip and transpose all arrays alike, with BasicSR's meaning of the two options; views, not copies."""
        flip_columns = self.options.use_hflip and random.random() < 0.5
        flip_rows = self.options.use_rot and random.random() < 0.5
        transpose = self.options.use_rot and random.random() < 0.5
        if flip_columns:
            arrays = [array[:, ::-1] for array in arrays]
        if flip_rows:
            arrays = [array[::-1] for array in arrays]
        if transpose:
            arrays = [array.swapaxes(0, 1) for array in arrays]
        return arrays

    def _to_tensor(self, image: NDArray[np.uint8]) -> Tensor:
        """Turn uint8 (H, W, 3) into float32 (C, H, W) in [0, 1], copying the pixels once."""
        if self.options.color == "gray":
            image = np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)[..., None], np.uint8)
        planes = np.empty((image.shape[2], *image.shape[:2]), np.float32)
        np.divide(image.transpose(2, 0, 1), np.float32(255), out=planes)
        return torch.from_numpy(planes)

    def _whole_multiple(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cut off, right and below, what does not go into the scale."""
        height, width = (side - side % self.scale for side in array.shape[:2])
        return array[:height, :width]

    def _degraded(self, gt: Tensor, key: str, steps: list[Step]) -> dict[str, Any]:
        """Return ``lq`` and its noise level, as one number and as a map."""
        clean = gt.numpy().transpose(1, 2, 0).copy()  # a degradation may change it in place
        generator = random_generator() if self.options.phase == "train" else generator_for_key(key)
        try:
            degraded = run(steps, clean, generator)
        except D2SMError as error:
            raise type(error)(f"{self.images.describe(key)}: {error}") from error
        size = tuple(side // self.scale for side in clean.shape[:2])
        image = fitted(degraded.image, size)
        level = np.broadcast_to(np.asarray(degraded.level, np.float32), degraded.image.shape)
        planes = np.ascontiguousarray(fitted(level, size).transpose(2, 0, 1)).clip(min=0)  # a cubic overshoots
        sigma = float(np.sqrt(np.square(planes, dtype=np.float64).mean()))
        return {
            "lq": torch.from_numpy(image.transpose(2, 0, 1).copy()),
            "sigma": torch.full((1, 1, 1), sigma),
            "sigma_map": torch.from_numpy(planes),
        }

    def _noisy(self, gt: Tensor, key: str) -> dict[str, Any]:
        """Return the noise level, and ``lq`` or the seed from which it will be made."""
        options, shape = self.options, tuple(gt.shape)
        level = random_sigma(*options.sigma_range) if options.sigma_range is not None else options.sigma
        assert level is not None  # the options would not have been valid
        entries = {"sigma": torch.full((1, 1, 1), level / 255)}
        if options.noise_on == "device":
            return entries | {NOISE_SEED: random_noise_seed()}
        noise = random_noise(level, shape) if options.phase == "train" else noise_for_key(key, level, shape)
        return entries | {"lq": noise.add_(gt)}
