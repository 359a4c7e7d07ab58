"""A frozen segmentation network built from an mmsegmentation config and checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from d2sm_plugin.errors import OptionError
from d2sm_plugin.random_guard import untouched_random_state
from d2sm_plugin.seg.checkpoint import SegCheckpoint, load_into, read_seg_checkpoint
from d2sm_plugin.seg.classes import ClassSet, check_classes_fit, class_set_of_checkpoint, load_class_set
from d2sm_plugin.seg.label_values import AS_STORED, label_values
from d2sm_plugin.seg.openmmlab import nothing_unpickled, read_config, require_mmseg
from d2sm_plugin.seg.preprocess import Padding, Preprocessor, TestResize, to_levels

# A larger batch makes an HRNet slower on CPUs (its activations leave the cache); on GPUs the caller's batch is used.
_CPU_CHUNK = 1


class Segmentor(nn.Module):
    """Frozen segmentation network, always in eval mode; build it with :func:`build_segmentor`.

    Args:
        network: an mmseg ``EncoderDecoder`` (or one with the same methods) with its weights.
        preprocessor: normalisation and padding of its config.
        classes: names of the classes in its checkpoint, may be empty.
        palette: their colours, may be empty.
        amp: run the network in bfloat16 autocast.
        channels_last: keep the network's tensors in channels-last layout, which is faster.
        test_resize: geometry of the config's test pipeline, for :meth:`predict` only; None leaves images at their size.
        label_values: (256,) uint8, the class that counts for each value stored in label maps.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessor: Preprocessor,
        classes: tuple[str, ...] = (),
        palette: tuple[tuple[int, int, int], ...] = (),
        amp: bool = False,
        channels_last: bool = True,
        test_resize: TestResize | None = None,
        label_values: NDArray[np.uint8] = AS_STORED,
    ) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(False).eval()  # mmseg's classes have no annotations
        self.preprocessor = preprocessor
        self.classes = classes
        self.palette = palette
        self.amp = amp
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)
        self.test_resize = test_resize
        self.label_values = label_values
        super().train(False)
        classifier = getattr(final_head(network), "conv_seg", None)
        if isinstance(classifier, nn.Module):  # under autocast, logits are resized in float32
            classifier.register_forward_hook(lambda _module, _inputs, logits: logits.float())

    @property
    def num_classes(self) -> int:
        """Number of classes the network tells apart."""
        return int(final_head(self.network).num_classes)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.preprocessor.mean.device

    def train(self, mode: bool = True) -> Segmentor:
        """Stay in eval mode, whatever the model around it does."""
        return self

    def predict(self, images: Tensor, quantise: bool = True) -> Tensor:
        """Return the class of every pixel, as mmseg's ``inference_model`` gives for the same images.

        Args:
            images: (B, 3, H, W) RGB, floats in [0,1] or uint8, on any device.
            quantise: clip and round floats to 8 bit first, as saving them to PNG would, so that figures equal those
                from files. False takes them as they are, out of [0,1] too.

        Returns:
            (B, H, W) int64 on the network's device.

        Raises:
            ShapeError: when these are not RGB images.
        """
        with torch.inference_mode():
            levels = to_levels(images.to(self.device, non_blocking=True), quantise)
            resized = levels if self.test_resize is None else self.test_resize(levels)
            chunk = _CPU_CHUNK if self.device.type == "cpu" else max(len(images), 1)
            size = images.shape[-2:]
            return torch.cat([self._classes(part, size) for part in resized.split(chunk)])

    def logits(self, images: Tensor) -> Tensor:
        """Return the network's logits at the images' size, differentiable with respect to the images.

        Images are neither rounded, clipped nor resized.

        Args:
            images: (B, 3, H, W) RGB in [0,1].

        Returns:
            (B, C, H, W) float32.

        Raises:
            ShapeError: when these are not RGB images.
        """
        return self._logits(to_levels(images.to(self.device), quantise=False))

    def _logits(self, levels: Tensor) -> Tensor:
        inputs, padding = self.preprocessor(levels)
        inputs = inputs.contiguous(memory_format=self.layout)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):  # off: whatever surrounds this call
            logits = self.network.inference(inputs, [_image_meta(inputs, padding)] * len(inputs))
        return logits[..., : padding.height, : padding.width].float()

    def _classes(self, levels: Tensor, size: torch.Size) -> Tensor:
        logits = self._logits(levels)
        if logits.shape[-2:] != size:
            logits = F.interpolate(logits, tuple(size), mode="bilinear", align_corners=self.network.align_corners)
        if logits.shape[1] == 1:  # one output for two classes
            return (logits[:, 0].sigmoid() > final_head(self.network).threshold).long()
        return logits.argmax(1)


def final_head(network: nn.Module) -> Any:
    """Return the decode head that gives a network's result; cascades (OCRNet) have several."""
    head = network.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def _image_meta(inputs: Tensor, padding: Padding) -> dict[str, Any]:
    padded = tuple(inputs.shape[-2:])
    return {
        "ori_shape": (padding.height, padding.width),
        "img_shape": padded,
        "pad_shape": padded,
        "padding_size": [0, padding.right, 0, padding.below],
    }


def build_segmentor(
    config: str | Path,
    checkpoint: str | Path | None,
    device: str | torch.device = "cpu",
    amp: bool = False,
    channels_last: bool = True,
    test_resize: bool = False,
) -> Segmentor:
    """Build a segmentation network and load its weights, without touching the global random generators.

    Args:
        config: path of an mmseg config, or the name of one that this package or mmseg ships.
        checkpoint: path or URL of its checkpoint; None leaves the network untrained.
        device: where to run it.
        amp: run it in bfloat16 autocast: faster on GPUs, a few pixels change their class.
        channels_last: see :class:`Segmentor`.
        test_resize: resize images as the config's ``test_pipeline`` says before segmenting, and the logits back. mmseg
            itself does so; with the Cityscapes configs it brings a frame of any size to a height of 1024.

    Raises:
        DependencyError: without mmsegmentation.
        OptionError: when the config cannot be found, read or built.
        CheckpointError: when the checkpoint cannot be read or does not fit the network.
    """
    require_mmseg()
    loaded = read_config(config)
    contents = None if checkpoint is None else read_seg_checkpoint(checkpoint)
    network = _build_network(loaded.model, config)
    if contents is not None:
        load_into(network, contents, int(final_head(network).num_classes))
    resize = TestResize(loaded.get("test_pipeline", [])) if test_resize else None
    described = contents or SegCheckpoint(str(config), {})
    segmentor = Segmentor(
        network,
        Preprocessor(loaded.model.get("data_preprocessor") or {}),
        described.classes,
        described.palette,
        amp=amp,
        channels_last=channels_last,
        test_resize=resize,
        label_values=label_values(loaded),
    )
    return segmentor.to(device)


def _build_network(block: Any, config: str | Path) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    block = block.copy()
    for part in (block, block.get("backbone")):
        if isinstance(part, dict):  # weights come from the checkpoint, nothing is downloaded
            part.update(pretrained=None, init_cfg=None)
    block.update(train_cfg=None)
    block.pop("auxiliary_head", None)
    try:
        with (
            untouched_random_state(),
            nothing_unpickled(),
            DefaultScope.overwrite_default_scope("mmseg"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", UserWarning)
            network = MODELS.build(block)
    except Exception as error:  # a network's constructor may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OptionError(f"config '{config}': mmseg cannot build its model ({reason})") from error
    if not hasattr(network, "inference") or not hasattr(network, "decode_head"):
        raise OptionError(f"config '{config}': {type(network).__name__} is no segmentation network with a decode head")
    return revert_sync_batchnorm(network)


def choose_classes(source: str | None, segmentor: Segmentor, checkpoint: str) -> ClassSet:
    """Return the class set to score by, checked against the network.

    Args:
        source: name or file; None takes the classes that the checkpoint describes.
        segmentor: the network.
        checkpoint: for messages.

    Raises:
        OptionError: when there is none, or it is not the network's.
    """
    if source is None:
        classes = class_set_of_checkpoint(segmentor.classes, segmentor.palette, checkpoint)
    else:
        classes = load_class_set(source)
    check_classes_fit(classes, segmentor.num_classes, segmentor.classes)
    return classes
