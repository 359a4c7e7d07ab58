"""Packages that only some objectives need."""

from __future__ import annotations

import importlib
from types import ModuleType

from d2sm_plugin.errors import DependencyError


def import_optional(module: str, package: str, objective: str) -> ModuleType:
    """Import a module of the extra ``objectives``.

    Args:
        module: its name.
        package: the package that holds it.
        objective: who needs it, for the message.

    Raises:
        DependencyError: when it is missing or refuses to import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{objective} needs the package {package}, which cannot be imported ({error}); get it with: "
            f'pip install "d2sm-plugin[objectives]"'
        ) from error
