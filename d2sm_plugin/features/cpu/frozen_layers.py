"""Layers of a frozen network on a CPU: the same functions, with gradients for their inputs alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def replace_layers(network: nn.Module) -> int:
    """Replace the layers of a frozen network that have a faster form, in place.

    These are ``ReLU6``, depthwise convolutions with a stride, and timm's mean over the positions, as in the families of
    MobileNet and EfficientNet.

    Args:
        network: in eval mode, its parameters final. What it computes stays the same, but for rounding.

    Returns:
        The number of layers that were replaced.
    """
    count = 0
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.ReLU6:
                setattr(parent, name, FrozenReLU6(module.inplace))
                count += 1
            elif FrozenMean.fits(module):
                setattr(parent, name, FrozenMean())
                count += 1
            elif StridedDepthwise.fits(module):
                setattr(parent, name, StridedDepthwise(module))
                count += 1
    return count


class FrozenReLU6(nn.Module):
    """``min(max(x, 0), 6)``, which keeps its result for the gradient; PyTorch's keeps a copy of what it overwrites."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, maps: Tensor) -> Tensor:
        """The clamped maps, of any shape."""
        if torch.compiler.is_compiling():  # the compiler keeps no copy either
            return F.relu6(maps, self.inplace)
        return _ReLU6.apply(maps, self.inplace)


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, inplace: bool) -> Tensor:
        result = maps.clamp_(0, 6) if inplace else maps.clamp(0, 6)
        if inplace:
            ctx.mark_dirty(maps)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, result, 0, 6), None


class FrozenMean(nn.Module):
    """Mean over the positions, with a gradient that is not written out for every position."""

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a layer is timm's pooling to such means, of maps (B, C, h, w)."""
        if type(module).__name__ != "SelectAdaptivePool2d" or not isinstance(module.pool, nn.AdaptiveAvgPool2d):
            return False
        return module.pool.output_size in (1, (1, 1)) and isinstance(module.flatten, nn.Flatten)

    def forward(self, maps: Tensor) -> Tensor:
        """Means (B, C) of maps (B, C, h, w)."""
        return maps.mean((2, 3)) if torch.compiler.is_compiling() else _Mean.apply(maps)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return maps.mean((2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        return (gradient / (height * width))[:, :, None, None].expand(ctx.shape)


class StridedDepthwise(nn.Module):
    """A depthwise convolution with stride s, of maps whose height and width are multiples of s.

    Two parts of it are slow on a CPU. Padding as in TensorFlow, which adds more cells behind than before, is a copy of
    the map; here it is a part of the kernel: zeros before it, and equal padding on both sides. And oneDNN's gradient is
    slow, in bfloat16 up to eighty times as slow as in float32; here it is s x s depthwise convolutions of stride 1,
    each for the pixels of one phase. Other maps, and other devices, take the layer as it was.

    Args:
        conv: a layer that :meth:`fits`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv, self.step = conv, conv.stride[0]
        before, behind = _padding(conv)
        weight = conv.weight.detach()
        self.padding = max(before, behind)
        extra = (behind - before, 0) if behind > before else (0, before - behind)
        self.register_buffer("kernel", F.pad(weight, extra * 2), persistent=False)
        self.register_buffer("phases", _phase_kernels(weight, self.step, before), persistent=False)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether a layer is such a convolution, and its map has height / s cells."""
        if not isinstance(module, nn.Conv2d) or module.padding_mode != "zeros":
            return False
        stride, size = module.stride, module.kernel_size
        depthwise = module.groups == module.in_channels == module.out_channels
        square = stride[0] == stride[1] > 1 and size[0] == size[1] >= stride[0] and module.dilation == (1, 1)
        if not (depthwise and square):
            return False
        if type(module).__name__ == "Conv2dSame":
            return True
        padding = module.padding
        return type(module) is nn.Conv2d and not isinstance(padding, str) and (
            padding[0] == padding[1] and (2 * padding[0] - size[0]) // stride[0] == -1
        )  # fmt: skip

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h / s, w / s) of maps (B, C, h, w)."""
        device = maps.device.type
        uneven = maps.shape[-2] % self.step or maps.shape[-1] % self.step
        if device != "cpu" or uneven or torch.compiler.is_compiling():
            return self.conv(maps)
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else maps.dtype
        bias = None if self.conv.bias is None else self.conv.bias.to(dtype)
        tensors = maps.to(dtype), self.kernel.to(dtype), bias, self.phases.to(dtype)
        return _StridedDepthwise.apply(*tensors, self.step, self.padding)


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, kernel: Tensor, bias: Tensor | None, phases: Tensor, step: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(phases)
        ctx.step, ctx.shape = step, maps.shape
        last = maps.is_contiguous(memory_format=torch.channels_last)
        ctx.layout = torch.channels_last if last else torch.contiguous_format
        return F.conv2d(maps, kernel, bias, step, padding, groups=maps.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (phases,) = ctx.saved_tensors
        step, channels = ctx.step, ctx.shape[1]
        found = torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.layout)
        gradient = gradient.contiguous(memory_format=ctx.layout)
        with torch.autocast(gradient.device.type, enabled=False):
            for row in range(step):
                for column in range(step):
                    kernel = phases[row, column]
                    part = F.conv2d(gradient, kernel, None, 1, kernel.shape[-1] // 2, groups=channels)
                    found[:, :, row::step, column::step] = part
        return found, None, None, None, None, None


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    """Cells before and behind a map whose size is a multiple of the stride."""
    if type(conv).__name__ == "Conv2dSame":
        total = conv.kernel_size[0] - conv.stride[0]
        return total // 2, total - total // 2
    return conv.padding[0], conv.padding[0]


def _phase_kernels(weight: Tensor, step: int, before: int) -> Tensor:
    """Kernels (s, s, C, 1, m, m) that make the gradient of pixels ``s i + phase`` from that of the cells around i.

    Cell ``o`` takes pixel ``p`` by the tap ``p + before - s o`` of the kernel.
    """
    size = weight.shape[-1]
    distances = [phase + before - tap for phase in range(step) for tap in range(size)]
    reach = max(abs(distance // step) for distance in distances if distance % step == 0)
    taps = torch.zeros(step, 2 * reach + 1, size, dtype=weight.dtype, device=weight.device)
    for phase in range(step):
        for place in range(2 * reach + 1):
            tap = phase + before - step * (place - reach)
            if 0 <= tap < size:
                taps[phase, place, tap] = 1
    return torch.einsum("pia,qjb,cab->pqcij", taps, taps, weight[:, 0])[:, :, :, None].contiguous()
