"""Tensor names and shapes of published checkpoints, by layer table."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def conv(name: str, before: int, after: int, kernel: int = 3) -> Shapes:
    return {f"{name}.weight": (after, before, kernel, kernel), f"{name}.bias": (after,)}


def transposed(name: str, before: int, after: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (before, after, 2, 2)} | ({f"{name}.bias": (after,)} if bias else {})


def ffdnet_d2sm(channels: int = 3, feat: int = 96, layers: int = 12) -> Shapes:
    shapes = conv("m_head.0", 4 * channels + 1, feat) | conv("m_tail", feat, 4 * channels)
    for index in range(layers - 2):
        shapes |= conv(f"m_body.{index}.0", feat, feat)
    return shapes


def ffdnet_kair(channels: int = 3, feat: int = 96, layers: int = 12) -> Shapes:
    widths = [4 * channels + 1, *[feat] * (layers - 1), 4 * channels]
    shapes: Shapes = {}
    for index in range(layers):
        shapes |= conv(f"model.{2 * index}", widths[index], widths[index + 1])
    return shapes


def cbdnet_official() -> Shapes:
    shapes: Shapes = {}
    for index, (before, after) in enumerate([(3, 32), (32, 32), (32, 32), (32, 32), (32, 3)]):
        shapes |= conv(f"E0{index + 1}", before, after)
    shapes |= conv("DS02", 64, 256, 2) | conv("DS02_layer00_cf", 256, 128, 1)
    shapes |= conv("DS03", 128, 512, 2) | conv("DS03_layer00_cf", 512, 256, 1)
    shapes |= transposed("USP02", 512, 128, bias=False) | transposed("USP01", 256, 64, bias=False)
    for group, widths in (
        ("DS01", [6, 64, 64, 64, 64]),
        ("DS02", [128, 128, 128, 128]),
        ("DS03", [256, 256, 256, 256]),
        ("UPS03", [256, 256, 256, 256, 512]),
        ("US02", [128, 128, 128, 256]),
        ("US01", [64, 64, 64, 3]),
    ):
        for index in range(len(widths) - 1):
            shapes |= conv(f"{group}_layer0{index}", widths[index], widths[index + 1])
    return shapes


def cbdnet_port() -> Shapes:
    shapes: Shapes = {}
    for index, (before, after) in enumerate([(3, 32), (32, 32), (32, 32), (32, 32), (32, 3)]):
        shapes |= conv(f"fcn.fcn.{2 * index}", before, after)
    for group, widths in (
        ("inc", [6, 64, 64]),
        ("conv1", [64, 128, 128, 128]),
        ("conv2", [128, 256, 256, 256, 256, 256, 256]),
        ("conv3", [128, 128, 128, 128]),
        ("conv4", [64, 64, 64]),
    ):
        for index in range(len(widths) - 1):
            shapes |= conv(f"unet.{group}.{index}.conv.0", widths[index], widths[index + 1])
    shapes |= transposed("unet.up1.up", 256, 128) | transposed("unet.up2.up", 128, 64)
    return shapes | conv("unet.outc.conv", 64, 3, 1)


def sadnet() -> Shapes:
    shapes = conv("res1.conv0", 3, 32, 1) | conv("out", 32, 3)
    for scale, width in enumerate([32, 64, 128, 256], start=1):
        shapes |= conv(f"res{scale}.conv1", width, width) | conv(f"res{scale}.conv2", width, width)
        shapes |= conv(f"offset{scale}.offset_conv1", width, 32) | conv(f"offset{scale}.offset_conv3", 32, 32)
        shapes |= conv(f"dres{scale}.dcnpack", width, width) | conv(f"dres{scale}.conv1", width, width)
        shapes |= conv(f"dres{scale}.dcnpack.conv_offset_mask", 32, 216)
        if scale < 4:
            shapes |= conv(f"down{scale}", width, 2 * width, 2) | transposed(f"up{scale}", 2 * width, width)
            shapes |= conv(f"dconv{scale}_1", 2 * width, width, 1) | conv(f"offset{scale}.offset_conv2", 64, 32)
    shapes |= conv("context.conv0", 256, 64, 1) | conv("context.fusion", 256, 256, 1)
    for branch in range(1, 5):
        shapes |= conv(f"context.conv{branch}", 64, 64)
    return shapes
