"""Tensor names and shapes of published dehazing networks, by layer table."""

from __future__ import annotations

from published_shapes import Shapes, conv


def griddehazenet() -> Shapes:
    shapes: Shapes = {"coefficient": (3, 6, 2, 64)}

    def block(name: str, width: int) -> Shapes:
        layers = [conv(f"{name}.residual_dense_layers.{k}.conv", width + 16 * k, 16) for k in range(4)]
        return {key: shape for layer in layers for key, shape in layer.items()} | conv(
            f"{name}.conv_1x1", width + 64, width, 1
        )

    shapes |= conv("conv_in", 3, 16) | block("rdb_in", 16) | block("rdb_out", 16) | conv("conv_out", 16, 3)
    for row in range(3):
        width = 16 * 2**row
        for column in range(5):
            shapes |= block(f"rdb_module.{row}_{column}", width)
        for column in range(3) if row < 2 else ():
            name = f"downsample_module.{row}_{column}"
            shapes |= conv(f"{name}.conv1", width, width) | conv(f"{name}.conv2", width, 2 * width)
            name = f"upsample_module.{row}_{column + 3}"
            shapes |= conv(f"{name}.deconv", 2 * width, 2 * width) | conv(f"{name}.conv", 2 * width, width)
    return shapes


def pffnet(blocks: int = 17) -> Shapes:
    shapes = conv("sub_mean", 3, 3, 1) | conv("add_mean", 3, 3, 1)
    shapes |= conv("conv_input.conv2d", 3, 16, 11) | conv("conv_output.conv2d", 16, 3)
    for level, reduction in enumerate((2, 4, 8, 16)):
        width = 16 * 2**level
        shapes |= conv(f"conv{reduction}x.conv2d", width, 2 * width)
        # A transposed convolution: its first axis is the input, its bias has the width of the output.
        shapes |= {f"convd{reduction}x.conv2d.weight": (2 * width, width, 3, 3)}
        shapes |= {f"convd{reduction}x.conv2d.bias": (width,)}
    for number in range(1, blocks + 1):
        shapes |= conv(f"dehaze.res{number}.conv1.conv2d", 256, 256)
        shapes |= conv(f"dehaze.res{number}.conv2.conv2d", 256, 256)
        shapes |= {f"dehaze.res{number}.relu.weight": (1,)}
    return shapes


def durn() -> Shapes:
    shapes = conv("conv1", 3, 64, 7) | conv("conv2", 64, 64) | conv("conv3", 64, 64) | conv("end_conv", 64, 3, 7)
    for number in (1, 2):
        shapes |= conv(f"upconv{number}.conv2d", 64, 256) | conv(f"conv{number + 3}.conv2d", 64, 64)
    for number, kernel in enumerate((5, 5, 7, 7, 11, 11, 11, 11, 11, 11, 11, 11), start=1):
        block = f"rud{number}"
        for name in ("conv1", "conv2", "down_conv"):
            shapes |= conv(f"{block}.{name}.conv2d", 64, 64)
        shapes |= conv(f"{block}.conv_pre.conv2d", 64, 256) | conv(f"{block}.up_conv.conv2d", 64, 64, kernel)
        shapes |= {f"{block}.se.conv1.weight": (64, 64, 3, 3), f"{block}.se.conv2.weight": (64, 64, 3, 3)}
        shapes |= {f"{block}.se.se.fc.0.weight": (32, 64), f"{block}.se.se.fc.0.bias": (32,)}
        shapes |= {f"{block}.se.se.fc.2.weight": (64, 32), f"{block}.se.se.fc.2.bias": (64,)}
    return shapes


def gfn() -> Shapes:
    """The Caffe network; a deconvolution has its input first, which here has as many channels as its output."""
    shapes = conv("s2_up1", 3, 3, 4) | conv("s3_up2", 3, 3, 4)
    for scale, kernel in ((1, 3), (2, 5), (3, 7)):
        wide = 64 if scale == 1 else 32
        shapes |= conv(f"s{scale}_e1conv1", 12 if scale == 1 else 15, 32, kernel)
        shapes |= conv(f"s{scale}_e2conv1", 32, wide) | conv(f"s{scale}_e2conv2", wide, 32)
        further = ("e1conv2", "e1conv3", "e2conv3", "d3conv1", "d3conv2")
        for name in (*further, *(f"{stage}conv{k}" for stage in ("e3", "d1", "d2") for k in "123")):
            shapes |= conv(f"s{scale}_{name}", 32, 32)
        shapes |= conv(f"s{scale}_d3conv3", 192, 3)
    return shapes
