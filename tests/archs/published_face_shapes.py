"""Tensor names and shapes of the published checkpoints for faces, by layer table."""

from __future__ import annotations

import torch
from formula_values import formula_state
from published_shapes import Shapes, conv
from torch import Tensor


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}


def linear(name: str, before: int, after: int) -> Shapes:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def bottleneck(name: str, before: int, after: int, bn: bool) -> Shapes:
    half = after // 2
    places = (0, 3, 6) if bn else (0, 2, 3)
    layers = ((before, half, 1), (half, half, 3), (half, after, 1))
    shapes: Shapes = {}
    for place, (inside, outside, kernel) in zip(places, layers, strict=True):
        shapes |= conv(f"{name}.conv_block.{place}", inside, outside, kernel)
        shapes |= norm(f"{name}.conv_block.{place + 1}", outside) if bn else {}
    if before != after:
        skip = f"{name}.skip_layer" + (".0" if bn else "")
        shapes |= conv(skip, before, after, 1)
        shapes |= norm(f"{name}.skip_layer.1", after) if bn else {}
    return shapes


def stem(name: str, bn: bool) -> Shapes:
    shapes = conv(f"{name}.0", 3, 64, 7) | (norm(f"{name}.1", 64) if bn else {})
    first = 3 if bn else 2
    shapes |= bottleneck(f"{name}.{first}", 64, 128, bn) | bottleneck(f"{name}.{first + 2}", 128, 128, bn)
    return shapes | bottleneck(f"{name}.{first + 3}", 128, 256, bn)


def hourglass(name: str, channels: int, bn: bool) -> Shapes:
    shapes = bottleneck(f"{name}.res_center", channels, channels, bn)
    for level in range(1, 5):
        for way in range(1, 4):
            shapes |= bottleneck(f"{name}.res{level}_{way}", channels, channels, bn)
    return shapes


def stacked_hourglass(stacks: int = 4, points: int = 68) -> Shapes:
    shapes = stem("pre_conv_block", True)
    for n in range(stacks):
        shapes |= hourglass(f"hg{n}", 256, True) | bottleneck(f"hg{n}_res1", 256, 256, True)
        shapes |= conv(f"hg{n}_lin1.conv_block.0", 256, 256, 1) | norm(f"hg{n}_lin1.conv_block.1", 256)
        shapes |= conv(f"hg{n}_conv_pred", 256, points, 1)
        if n < stacks - 1:
            shapes |= conv(f"hg{n}_conv1", 256, 256, 1) | conv(f"hg{n}_conv2", points, 256, 1)
    return shapes


def _prelu(shapes: Shapes) -> Shapes:
    """The convolutions at NAME.0, and the PReLU of one parameter that follows each at NAME.1."""
    names = {name.rsplit(".", 2)[0] for name in shapes}
    return shapes | {f"{name}.1.weight": (1,) for name in names}


def _feedback(name: str, before: int, groups: int = 6, feat: int = 48) -> Shapes:
    shapes = conv(f"{name}.compress_in.0", before, feat, 1)
    shapes |= conv(f"{name}.compress_out.0", groups * feat, feat, 1)
    for n in range(groups):
        shapes |= conv(f"{name}.upBlocks.{n}.0", feat, feat, 12) | conv(f"{name}.downBlocks.{n}.0", feat, feat, 12)
    for n in range(groups - 1):
        shapes |= conv(f"{name}.uptranBlocks.{n}.0", (n + 2) * feat, feat, 1)
        shapes |= conv(f"{name}.downtranBlocks.{n}.0", (n + 2) * feat, feat, 1)
    return _prelu(shapes)


def dicnet() -> Shapes:
    shapes = _prelu(conv("conv_in.0", 3, 192) | conv("out.0", 48, 48, 8)) | conv("conv_out.0", 48, 3)
    shapes |= _feedback("first_block", 48) | _feedback("block", 96)
    shapes |= conv("block.fusion_block.conv_in.0", 48, 240, 1)
    for n in range(7):
        for place in (0, 2):
            shapes |= conv(f"block.fusion_block.resnet.{n}.res.{place}", 48, 240)
    shapes |= stem("HG.pre_conv_block", False) | hourglass("HG.hg", 512, False)
    shapes |= conv("HG.compress_in", 512, 512, 1) | bottleneck("HG.hg_conv_out.0", 256, 256, False)
    return shapes | conv("HG.hg_conv_out.1.conv_block.0", 256, 256, 1) | conv("HG.hg_conv_out.2", 256, 68, 1)


def lightcnn_trunk(channels: int) -> Shapes:
    shapes = conv("features.0.filter", channels, 96, 5)
    for place, before, after in ((2, 48, 96), (4, 96, 192), (6, 192, 128), (7, 128, 128)):
        shapes |= conv(f"features.{place}.conv_a.filter", before, 2 * before, 1)
        shapes |= conv(f"features.{place}.conv.filter", before, 2 * after)
    return shapes


def lightcnn9(classes: int = 79_077) -> Shapes:
    return lightcnn_trunk(1) | linear("fc1.filter", 8192, 512) | linear("fc2", 256, classes)


def discriminator() -> Shapes:
    return lightcnn_trunk(3) | linear("classifier.0.filter", 8192, 512) | linear("classifier.2", 256, 1)


def face_state(shapes: Shapes) -> dict[str, Tensor]:
    """Formula weights, with the variances and scales of batch normalisation around one."""
    state = formula_state(shapes)
    for name in [name for name in state if name.endswith(".running_var")]:
        scale = name.replace("running_var", "weight")
        state[name], state[scale] = 1 + state[name], 1 + state[scale]
        state[name.replace("running_var", "num_batches_tracked")] = torch.zeros((), dtype=torch.long)
    return state
