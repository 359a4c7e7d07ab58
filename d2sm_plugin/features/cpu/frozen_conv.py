"""A convolution of a frozen network on a CPU, prepared for both directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2sm_plugin.features.cpu.frozen_layers import StridedDepthwise
from d2sm_plugin.onednn import offers


class _Kernel(NamedTuple):
    """What a convolution is made of; its weight in oneDNN's layout if that runs it."""

    weight: Tensor
    bias: Tensor | None
    padding: int
    step: int
    groups: int


class Clamped(NamedTuple):
    """What a clamp to 0 ... ceiling returned."""

    result: Tensor
    ceiling: float

    def phase(self, row: int, column: int, step: int) -> Clamped:
        """The pixels of a phase of rows and columns."""
        return Clamped(self.result[:, :, row::step, column::step], self.ceiling)

    def gradient(self, gradient: Tensor, out: Tensor | None = None) -> Tensor:
        """Gradient of what was clamped, from that of the result; written into ``out``, which may be that one."""
        arguments = gradient, self.result, 0.0, self.ceiling
        if out is None:
            return torch.ops.aten.hardtanh_backward(*arguments)
        return torch.ops.aten.hardtanh_backward.grad_input(*arguments, grad_input=out)


class FrozenConv:
    """A convolution, a clamp behind it, and the gradients of both for their input.

    Both directions are convolutions by kernels that never change: the gradient of one of stride 1 is one with the
    flipped kernel, its channels exchanged, and that of a strided one is such a convolution for each phase (see
    :class:`StridedDepthwise`). In float32 on x86 they are the ones that ``torch.compile`` uses, which take a kernel in
    oneDNN's layout and clamp or add where they write. Elsewhere they are PyTorch's.

    Args:
        layer: one that :meth:`fits`.
        ceiling: the result is clamped to 0 ... ceiling; None leaves it.
    """

    def __init__(self, layer: nn.Module, ceiling: float | None) -> None:
        self.ceiling = ceiling
        conv = layer.conv if isinstance(layer, StridedDepthwise) else layer
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        self.channels, groups = conv.out_channels, conv.groups
        self.fused = weight.dtype == torch.float32 and offers("_convolution_pointwise", "_reorder_convolution_weight")
        if isinstance(layer, StridedDepthwise):
            self.step = layer.step
            self._forward = self._kernel(layer.kernel, bias, layer.padding, layer.step, groups)
            self._phases = [
                [self._kernel(kernel, None, kernel.shape[-1] // 2, 1, groups) for kernel in row] for row in layer.phases
            ]
        else:
            self.step = 1
            self._forward = self._kernel(weight, bias, conv.padding[0], 1, groups)
            back = weight.flip((2, 3))
            back = back if groups > 1 else back.transpose(0, 1)
            self._phases = [[self._kernel(back, None, conv.padding[0], 1, groups)]]

    @staticmethod
    def fits(layer: nn.Module) -> bool:
        """Whether a layer is a convolution of stride 1 that keeps the size, dense or depthwise, or a strided one."""
        if isinstance(layer, StridedDepthwise):
            return True
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return False
        if layer.groups not in (1, layer.in_channels) or (layer.groups > 1 and layer.in_channels != layer.out_channels):
            return False
        keeps_size = all(2 * p == k - 1 for p, k in zip(layer.padding, layer.kernel_size, strict=True))
        square = layer.kernel_size[0] == layer.kernel_size[1]
        return keeps_size and square and layer.stride == layer.dilation == (1, 1)

    def forward(self, maps: Tensor, addend: Tensor | None = None) -> Tensor:
        """Maps (B, D, h / s, w / s) of maps (B, C, h, w): clamped, or, without a clamp, plus ``addend``."""
        return self._convolve(maps, self._forward, self.ceiling, addend)

    def backward(
        self, gradient: Tensor, shape: Sequence[int], addend: Tensor | None = None, before: Clamped | None = None
    ) -> Tensor:
        """Gradient for the maps, from that of the result before its own clamp.

        Args:
            gradient: (B, D, h / s, w / s), in channels_last.
            shape: of the maps, (B, C, h, w).
            addend: is added to the gradient for the maps, which are then not clamped.
            before: the maps, if they are the result of a clamp: the gradient returned is the one before it.
        """
        if self.step == 1:
            found = self._convolve(gradient, self._phases[0][0], None, addend)
            return found if before is None else before.gradient(found, out=found)
        options = {"dtype": gradient.dtype, "device": gradient.device, "memory_format": torch.channels_last}
        found = torch.empty(shape, **options)
        for row, kernels in enumerate(self._phases):
            for column, kernel in enumerate(kernels):
                part = self._convolve(gradient, kernel, None, None)
                pixels = found[:, :, row :: self.step, column :: self.step]
                if before is None:
                    pixels.copy_(part)
                else:
                    before.phase(row, column, self.step).gradient(part, out=pixels)
        return found if addend is None else found.add_(addend)

    def _kernel(self, weight: Tensor, bias: Tensor | None, padding: int, step: int, groups: int) -> _Kernel:
        weight = weight.contiguous()
        if self.fused:
            weight = torch.ops.mkldnn._reorder_convolution_weight(weight, [padding] * 2, [step] * 2, [1, 1], groups)
        return _Kernel(weight, bias, padding, step, groups)

    def _convolve(self, maps: Tensor, kernel: _Kernel, ceiling: float | None, addend: Tensor | None) -> Tensor:
        weight, bias, padding, step, groups = kernel
        if not self.fused:
            result = F.conv2d(maps, weight, bias, step, padding, groups=groups)
            result = result if addend is None else result.add_(addend)
            return result if ceiling is None else result.clamp_(0, ceiling)
        how = weight, bias, [padding] * 2, [step] * 2, [1, 1], groups
        if addend is not None:
            return torch.ops.mkldnn._convolution_pointwise.binary(maps, addend, *how, "add", 1.0, None, [], None)
        clamp = ("none", []) if ceiling is None else ("hardtanh", [0.0, ceiling])
        return torch.ops.mkldnn._convolution_pointwise(maps, *how, *clamp, "")
