"""Option files written for other models: which of ours does the same, and what their keys are called here."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from d2sm_plugin.errors import OptionError

_CLIP = 0.01  # largest norm of the gradient in NAFNet's and Restormer's models


class _Foreign(NamedTuple):
    """A model of BasicSR or a project built on it.

    Attributes:
        model: of the plugin, which makes the same training steps.
        clips: whether it clips gradients unless told otherwise; None where it never does.
    """

    model: str
    clips: bool | None = None


_MODELS = {
    "SRModel": _Foreign("D2SMModel"),
    "SRModelWithObjectives": _Foreign("D2SMModel"),  # d2sm_plugin.models.host_models, for BasicSR's own trainer
    "SwinIRModel": _Foreign("D2SMModel"),
    "SRGANModel": _Foreign("GANModel"),
    "ImageCleanModel": _Foreign("D2SMModel", clips=False),
    "ImageRestorationModel": _Foreign("D2SMModel", clips=True),
}
#: Keys of ``val`` in those projects that change no restored image here: inputs are padded and colours kept as it is.
_WITHOUT_EFFECT = ("use_image", "rgb2bgr", "max_minibatch", "window_size")


def translate(raw: Mapping[str, Any], is_ours: bool) -> tuple[dict[str, Any], list[str]]:
    """Return options with the model of ours in place of another project's that does the same.

    Args:
        raw: content of an option file.
        is_ours: whether ``model_type`` names a model of ours, or a user's own, already.

    Returns:
        The options, and lines for the log that say what is run; none where nothing has changed.

    Raises:
        OptionError: when the options ask for what none of ours does.
    """
    name = raw.get("model_type")
    if is_ours or not isinstance(name, str) or name not in _MODELS:
        return dict(raw), []
    foreign = _MODELS[name]
    options = deepcopy(dict(raw)) | {"model_type": foreign.model}
    line = f"model_type {name}: run as {foreign.model}, which does the same"
    if foreign.clips is None:
        return options, [f"{line}."]
    train, val = options.get("train"), options.get("val")
    if isinstance(train, dict):
        _refuse_mixing(train, name)
        clips = train.pop("use_grad_clip", foreign.clips)
        if clips is True and train.get("grad_clip") is None:
            train["grad_clip"] = _CLIP
            line += f", with train.grad_clip {_CLIP} as there"
    dropped = [key for key in _WITHOUT_EFFECT if isinstance(val, dict) and val.pop(key, None) is not None]
    if dropped:
        line += f"; without effect: {', '.join(f'val.{key}' for key in dropped)}"
    return options, [f"{line}."]


def _refuse_mixing(train: dict[str, Any], name: str) -> None:
    """Take out switches of augmentations that are off; refuse those that are on."""
    mixing = train.pop("mixing_augs", None)
    on = isinstance(mixing, dict) and mixing.get("mixup")
    if on or train.pop("mixup", False):
        where = "train.mixing_augs.mixup" if on else "train.mixup"
        raise OptionError(f"{where}: {name} mixes pairs of images, which no model here does; set it to false")
