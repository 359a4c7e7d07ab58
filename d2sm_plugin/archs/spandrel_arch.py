"""Networks of spandrel: some forty published architectures, by name or found out from a weight file."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, OptionError, suggest
from d2sm_plugin.extras import import_extra
from d2sm_plugin.registry import ARCH_REGISTRY, register
from d2sm_plugin.weights import read_weights


@register(ARCH_REGISTRY)
class SpandrelNetwork(nn.Module):
    """A network of an architecture that spandrel knows: SwinIR, NAFNet, HAT, SCUNet, DRUNet, DAT and others.

    Give either ``weights``, of which spandrel finds out architecture and sizes, or ``architecture`` and ``arguments``.

    Args:
        weights: path or URL of published weights, which the network starts from; they are also read to build it again,
            so they must stay where they are.
        architecture: name of an architecture, such as ``SwinIR``, or of its class; weights are random then.
        arguments: of its class in spandrel.

    Attributes:
        num_in_ch: channels of the image, 3 where spandrel does not say.
        size_multiple: of which height and width must be multiples, where spandrel says.

    Raises:
        DependencyError: when spandrel is missing.
        OptionError: for both or neither, an unknown architecture, or arguments that it does not take.
        CheckpointError: when the weights cannot be read, or spandrel knows no architecture of theirs.
    """

    inputs = ("lq",)

    def __init__(
        self,
        weights: str | None = None,
        architecture: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if (weights is None) == (architecture is None):
            raise OptionError("SpandrelNetwork: give either weights or architecture")
        self.num_in_ch = 3
        if architecture is not None:
            self.network = _by_name(architecture, arguments or {})
            return
        descriptor = _of_weights(str(weights))
        self.network = descriptor.model
        self.num_in_ch = descriptor.input_channels
        if descriptor.size_requirements.multiple_of > 1:
            self.size_multiple = descriptor.size_requirements.multiple_of
        self.requires_grad_(True)  # spandrel gives networks that are not to be trained

    def forward(self, lq: Tensor) -> Tensor:
        """Return restored images (B, C, s*H, s*W) of images (B, C, H, W) in [0, 1]."""
        restored: Tensor = self.network(lq)
        return restored


def _of_weights(weights: str) -> Any:
    spandrel = import_extra("spandrel", "SpandrelNetwork")
    state = read_weights(weights)
    try:
        with torch.device("cpu"):  # with its values, also where networks are only tried
            descriptor = spandrel.ModelLoader("cpu").load_from_state_dict(dict(state))
    except Exception as error:  # spandrel's architectures raise many kinds for what they do not know
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{weights}: spandrel knows no network of these weights ({reason})") from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise CheckpointError(f"{weights}: a {descriptor.architecture.name} of spandrel takes more than an image")
    return descriptor


def _by_name(name: str, arguments: dict[str, Any]) -> nn.Module:
    classes = _classes()
    if name not in classes:
        raise OptionError(f"SpandrelNetwork: spandrel has no architecture '{name}'{suggest(name, classes)}")
    try:
        network: nn.Module = classes[name](**arguments)
    except Exception as error:  # spandrel's networks raise many kinds for arguments that they cannot take
        reason = " ".join(str(error).split())[:200]
        raise OptionError(f"SpandrelNetwork: {name} of spandrel with {arguments}: {reason}") from error
    return network


def _classes() -> dict[str, type[nn.Module]]:
    """Return the networks of spandrel by the names of their classes, and of architectures that have one class alone."""
    classes: dict[str, type[nn.Module]] = {}
    for support in import_extra("spandrel", "SpandrelNetwork").MAIN_REGISTRY.architectures():
        module = importlib.import_module(type(support.architecture).__module__)
        here = [item for item in vars(module).values() if inspect.isclass(item) and issubclass(item, nn.Module)]
        classes |= {item.__name__: item for item in here}
        if len(here) == 1:
            classes[support.architecture.id] = here[0]
    return classes
