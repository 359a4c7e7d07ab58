"""Arguments of BasicSR's classes and functions, which carry no annotations, by name and by default."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from d2sm_plugin.argument_types import Count, NonNegative, Weight

#: Arguments of one meaning wherever they occur. They hold for other people's classes without annotations too.
EVERYWHERE: dict[str, Any] = {
    "loss_weight": Weight,
    "perceptual_weight": Weight,
    "style_weight": Weight,
    "crop_border": NonNegative,
    "test_y_channel": bool,
}
_COUNTS = (
    "num_in_ch num_out_ch num_feat num_block num_blocks num_channel num_group num_grow_ch num_layer num_conv num_frame "
    "num_extract_block num_reconstruct_block squeeze_factor upscale scale in_channels mid_channels out_channels "
    "in_chans embed_dim window_size deformable_groups input_size out_size"
)
#: Arguments of BasicSR's own. Reduction ``none`` would leave a loss that is no number; criterion ``l2`` does not exist.
_HOST: dict[str, Any] = {
    **dict.fromkeys(_COUNTS.split(), Count),
    "reduction": Literal["mean", "sum"],
    "criterion": Literal["l1", "fro"],
    "layer_weights": Annotated[dict[str, Weight], MinLen(1)],
    "layer_name_list": Annotated[list[str], MinLen(1)],
    "vgg_type": Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"],
    "gan_type": Literal["vanilla", "lsgan", "wgan", "wgan_softplus", "hinge"],
    "eps": Annotated[float, Ge(0)],
    "input_order": Literal["HWC"],
    "convert_to": Literal["y", "gray"],
    "act_type": Literal["prelu", "relu", "rrelu", "softplus", "linear"],
    "milestones": list[NonNegative],
    "periods": Annotated[list[Count], MinLen(1)],
    "restarts": list[NonNegative],
    "restart_weights": list[Weight],
    "gamma": Weight,
    "eta_min": Weight,
    "img_size": Count | list[Count],
    "patch_size": Count | list[Count],
    "depths": Annotated[list[Count], MinLen(1)],
    "num_heads": Annotated[list[Count], MinLen(1)],
    "rgb_mean": list[float],
}


def is_of_host(target: Callable[..., Any]) -> bool:
    """Tell whether a class or function is BasicSR's."""
    return _package(target) == "basicsr"


def host_argument(target: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the type of an argument without annotation.

    What defaults say holds for classes of BasicSR and torch; elsewhere they say little about what else is possible.
    """
    name, default = parameter.name, parameter.default
    if name in EVERYWHERE:
        return EVERYWHERE[name]
    if is_of_host(target) and name in _HOST:
        return _HOST[name]
    if default in (parameter.empty, None) or not (is_of_host(target) or _package(target) == "torch"):
        return Any
    if isinstance(default, int | float) and not isinstance(default, bool):
        return float  # RCAN's res_scale has the default 1, and takes 0.1
    return list if isinstance(default, tuple) else type(default)


def _package(target: Callable[..., Any]) -> str:
    return (getattr(target, "__module__", None) or "").split(".")[0]
