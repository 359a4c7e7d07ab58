"""Batch normalisation of a frozen network as part of its convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batchnorm(network: nn.Module, example: Tensor) -> int:
    """Multiply every batch normalisation that directly follows a convolution into the weights of that convolution.

    In eval mode both are linear, so the network computes the same function, apart from rounding (about 1e-6 of its
    outputs in float32), without the normalisation's passes over memory. An activation that belongs to the
    normalisation, as in timm's ``BatchNormAct2d``, stays.

    Args:
        network: in eval mode; changed in place, its parameters included.
        example: an input (B, C, H, W), by which it is found out what follows what.

    Returns:
        The number of normalisations that were folded.
    """
    pairs = _pairs(network, example)
    names = {module: name for name, module in network.named_modules()}
    for conv, norm in pairs:
        _replace(network, names[conv], fuse_conv_bn_eval(conv, norm))
        _replace(network, names[norm], nn.Sequential(*(part for part in norm.children())))
    return len(pairs)


def _pairs(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, _BatchNorm]]:
    """Convolutions and the normalisations that take their outputs, where both run once."""
    calls: dict[nn.Module, int] = {}
    made_by: list[tuple[Tensor, nn.Conv2d]] = []
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []

    def after_conv(module: nn.Conv2d, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        made_by.append((output, module))  # keeps the tensor, so that no other can take its identity

    def before_norm(module: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        pairs.extend((conv, module) for output, conv in made_by if output is inputs[0])

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(before_norm))
    if any(isinstance(module, _BatchNorm) for module in network.modules()):
        with torch.no_grad():
            network(example)
    for hook in hooks:
        hook.remove()
    takers = [conv for conv, _ in pairs]
    return [(c, n) for c, n in pairs if calls[c] == calls[n] == 1 and takers.count(c) == 1]


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
