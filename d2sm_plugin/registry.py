"""Scan-and-register, and building registered objects from option blocks."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from basicsr.utils.registry import Registry

from d2sm_plugin.errors import OptionError, RegistrationError, suggest

T = TypeVar("T")


def import_modules_with_suffix(package_name: str, suffix: str) -> list[str]:
    """Import every module of a package whose name ends with ``suffix``, so that its classes register themselves.

    Args:
        package_name: dotted name of the package, for example ``"d2sm_plugin.losses"``.
        suffix: for example ``"_loss"``; ``queue_loss.py`` matches, ``functional.py`` does not.

    Returns:
        The dotted names of the imported modules, sorted.
    """
    package = importlib.import_module(package_name)
    names = sorted(
        f"{package_name}.{info.name}" for info in pkgutil.iter_modules(package.__path__) if info.name.endswith(suffix)
    )
    for name in names:
        importlib.import_module(name)
    return names


def register(registry: Registry) -> Callable[[T], T]:
    """Return a decorator that registers an object under its ``__name__``.

    Registering the same definition twice (a module imported again, or reloaded) is harmless: the newer one stays.

    Raises:
        RegistrationError: when another object holds the name already; the message names both modules.
    """

    def decorator(obj: T) -> T:
        name = obj.__name__
        holder = registry._obj_map.get(name)
        if holder is not None and _origin(holder) != _origin(obj):
            raise RegistrationError(
                f"'{name}' is claimed twice in the {registry._name} registry: by module {holder.__module__} and by "
                f"module {obj.__module__}. Do not import both in one process, or rename one of them."
            )
        registry._obj_map[name] = obj
        return obj

    return decorator


def _origin(obj: Any) -> tuple[str, str]:
    """Where an object is defined: file and name, which stay equal when one module is imported under two names."""
    try:
        file = inspect.getfile(obj)
    except TypeError:
        file = obj.__module__
    return file, obj.__qualname__


def lookup(registry: Registry, name: str, where: str) -> Any:
    """Return the object registered as ``name``.

    Args:
        registry: one of BasicSR's five registries.
        name: the value of a ``type`` key.
        where: path of the key for the message, for example ``"train.d2sm_opt.type"``.

    Raises:
        OptionError: for an unknown name; the message lists the known ones and the nearest.
    """
    obj = registry._obj_map.get(name) or registry._obj_map.get(f"{name}_basicsr")
    if obj is None:
        raise OptionError(f"{where}: no {registry._name} is registered as '{name}'{suggest(name, registry.keys())}")
    return obj


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], where: str) -> None:
    """Check that ``target(**arguments)`` would be a legal call, without making it.

    Raises:
        OptionError: for an argument that ``target`` does not take (with the nearest it takes) or lacks.
    """
    parameters = inspect.signature(target).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in arguments:
        if key not in named and not takes_any:
            raise OptionError(f"{where}.{key}: {target.__name__} takes no such argument{suggest(key, named)}")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in arguments]
    if missing:
        raise OptionError(f"{where}: {target.__name__} needs {', '.join(missing)}; add it to the option block")


def build(registry: Registry, block: Mapping[str, Any], where: str) -> Any:
    """Build the object that an option block ``{"type": NAME, **arguments}`` describes.

    Raises:
        OptionError: when ``type`` is missing or unknown, or an argument is unknown or missing.
    """
    if "type" not in block:
        raise OptionError(f"{where}: the key 'type' is missing{suggest('', registry.keys())}")
    arguments = {key: value for key, value in block.items() if key != "type"}
    target = lookup(registry, block["type"], f"{where}.type")
    check_arguments(target, arguments, where)
    return target(**arguments)
