"""Building the model that an option file names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY

from d2sm_plugin.errors import OptionError
from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.registry import lookup


def build_model(options: Mapping[str, Any]) -> D2SMModel:
    """Build ``model_type``.

    Raises:
        OptionError: for BasicSR's own models, which this pipeline cannot continue, gather or stop in order.
    """
    cls = lookup(MODEL_REGISTRY, options["model_type"], "model_type")
    if not issubclass(cls, D2SMModel):
        raise OptionError(
            f"model_type: {options['model_type']} is not made for this pipeline; D2SMModel trains the same network "
            f"with the same pixel_opt and perceptual_opt"
        )
    return cls(options)
