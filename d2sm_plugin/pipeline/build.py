"""Building the model that an option file names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from d2sm_plugin.models.d2sm_model import D2SMModel
from d2sm_plugin.options.reader import model_class


def build_model(options: Mapping[str, Any], logger: logging.Logger | None = None) -> D2SMModel:
    """Build the model of validated options, and log what its reader has to say about them."""
    for note in options["notes"]:
        (logger or logging.getLogger("basicsr")).info(note)
    return model_class(options["model_type"])(options)
