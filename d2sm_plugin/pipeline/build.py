"""Building the model that an option file names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import model_class


def build_model(options: Mapping[str, Any]) -> D2SMModel:
    """Build the model of validated options."""
    return model_class(options["model_type"])(options)
