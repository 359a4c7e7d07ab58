"""The option keys of BasicSR's own datasets, which declare none."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, create_model, model_validator

from d2sm_plugin.blocks import at_key
from d2sm_plugin.data.dataset_options import DatasetOptions, IoBackend

_Statistics = Annotated[list[float], Field(min_length=3, max_length=3)]


class _HostDatasetOptions(DatasetOptions):
    """Keys that the datasets of single images share."""

    io_backend: IoBackend = Field(description="{type: disk} or {type: lmdb}")
    mean: _Statistics | None = Field(None, description="subtracted from each channel")
    std: _Statistics | None = Field(None, description="each channel is divided by it")


class SingleImageDatasetOptions(_HostDatasetOptions):
    """Option keys of BasicSR's ``SingleImageDataset``: images to restore, without clear ones."""

    dataroot_lq: str = Field(description="degraded images: a folder, or an LMDB")
    meta_info_file: str | None = Field(None, description="text file with the names of the images")
    color: Literal["y"] | None = Field(None, description="y: the luma channel alone")


class _PairedOptions(_HostDatasetOptions):
    """Keys that the datasets of pairs share."""

    dataroot_gt: str = Field(description="clear images: a folder, or an LMDB")
    dataroot_lq: str = Field(description="degraded images of the same names: a folder, or an LMDB")
    filename_tmpl: str = Field("{}", pattern=r"\{\}", description="name of a degraded image; {}: that of its clear one")
    gt_size: PositiveInt | None = Field(None, description="training: side of the random crop, in pixels of gt")
    use_hflip: bool | None = Field(None, description="training: flip left-right at random")
    use_rot: bool | None = Field(None, description="training: flip up-down and transpose at random")

    @model_validator(mode="after")
    def _fits_phase(self) -> _PairedOptions:
        for_training = {key: getattr(self, key) for key in ("gt_size", "use_hflip", "use_rot")}
        missing = [key for key, value in for_training.items() if value is None]
        if self.phase == "train" and missing:
            raise at_key(missing[0], "this key is missing; training needs gt_size, use_hflip and use_rot")
        unwanted = [key for key, value in for_training.items() if value]
        if self.phase != "train" and unwanted:
            raise ValueError(f"{', '.join(unwanted)}: for training only; a '{self.phase}' dataset gives whole images")
        return self


class PairedImageDatasetOptions(_PairedOptions):
    """Option keys of BasicSR's ``PairedImageDataset``."""

    meta_info_file: str | None = Field(None, description="text file with the names of the images")
    color: Literal["y"] | None = Field(None, description="y: the luma channel alone")


class RealESRGANPairedDatasetOptions(_PairedOptions):
    """Option keys of BasicSR's ``RealESRGANPairedDataset``."""

    meta_info: str | None = Field(None, description="text file with the paths of the pairs")


TYPED_HOST_DATASETS: dict[str, type[DatasetOptions]] = {
    "PairedImageDataset": PairedImageDatasetOptions,
    "RealESRGANPairedDataset": RealESRGANPairedDatasetOptions,
    "SingleImageDataset": SingleImageDatasetOptions,
}
#: Names of the keys that the others need, and of those that they know besides.
_NAMED: dict[str, tuple[str, str]] = {
    "FFHQDataset": ("io_backend dataroot_gt mean std use_hflip", ""),
    "RealESRGANDataset": (
        "io_backend dataroot_gt blur_kernel_size kernel_list kernel_prob blur_sigma betag_range betap_range sinc_prob "
        "blur_kernel_size2 kernel_list2 kernel_prob2 blur_sigma2 betag_range2 betap_range2 sinc_prob2 final_sinc_prob "
        "use_hflip use_rot",
        "meta_info",
    ),
    "REDSDataset": (
        "dataroot_gt dataroot_lq dataroot_flow meta_info_file val_partition io_backend num_frame gt_size interval_list "
        "random_reverse use_hflip use_rot",
        "",
    ),
    "REDSRecurrentDataset": (
        "dataroot_gt dataroot_lq meta_info_file val_partition io_backend num_frame gt_size test_mode use_hflip use_rot",
        "interval_list random_reverse dataroot_flow",
    ),
    "Vimeo90KDataset": (
        "dataroot_gt dataroot_lq meta_info_file io_backend num_frame gt_size random_reverse use_hflip use_rot", ""
    ),
    "Vimeo90KRecurrentDataset": (
        "dataroot_gt dataroot_lq meta_info_file io_backend num_frame gt_size random_reverse flip_sequence use_hflip "
        "use_rot",
        "",
    ),
    "VideoTestDataset": ("dataroot_gt dataroot_lq io_backend cache_data num_frame padding", "meta_info_file"),
    "VideoTestDUFDataset": (
        "dataroot_gt dataroot_lq io_backend cache_data num_frame padding use_duf_downsampling", "meta_info_file"
    ),
    "VideoTestVimeo90KDataset": ("dataroot_gt dataroot_lq io_backend cache_data num_frame meta_info_file", ""),
    "VideoRecurrentTestDataset": ("dataroot_gt dataroot_lq io_backend cache_data", "meta_info_file num_frame padding"),
}  # fmt: skip


def host_dataset_options(cls: type) -> type[DatasetOptions] | None:
    """Return the option keys of a dataset of BasicSR; None for a class that is not BasicSR's."""
    if cls.__module__.split(".")[0] != "basicsr":
        return None
    return TYPED_HOST_DATASETS.get(cls.__name__) or _from_names(cls.__name__)


@cache
def _from_names(name: str) -> type[DatasetOptions] | None:
    if name not in _NAMED:
        return None
    needed, known = (keys.split() for keys in _NAMED[name])
    fields: dict[str, Any] = {key: (Any, Field()) for key in needed} | {key: (Any, Field(None)) for key in known}
    return create_model(f"{name}Options", __base__=DatasetOptions, **fields)
