"""The tables of names that option files may use: filling them, searching them, and building what they name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterator, KeysView, Mapping
from typing import Any, TypeVar

from d2sm_plugin.errors import OptionError, RegistrationError, suggest

T = TypeVar("T")


class Registry:
    """Table of classes or functions by name, with the methods of BasicSR's registries and without BasicSR.

    Names that are not in it are looked up in the host's registry, once BasicSR is imported and
    :mod:`d2sm_plugin.host_import` has set it. The modules that fill the table are imported when it is first searched.

    Args:
        name: of what it holds, for messages.
        sources: pairs of a package and a suffix; each module of the package with the suffix registers something.

    Attributes:
        host: BasicSR's registry of the same name, or None.

    >>> shapes = Registry("shape")
    >>> @shapes.register()
    ... class Circle: ...
    >>> "Circle" in shapes, shapes.get("Circle").__name__
    (True, 'Circle')
    """

    def __init__(self, name: str, *sources: tuple[str, str]) -> None:
        self._name = name
        self._sources = list(sources)
        self._obj_map: dict[str, Any] = {}
        self.host: Any = None

    def register(self, obj: Any = None, suffix: str | None = None) -> Any:
        """Register an object under its ``__name__`` (and ``_suffix``), as a decorator or as a call.

        Raises:
            RegistrationError: when another object holds the name already.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, suffix)
        _claim(self, obj.__name__ if suffix is None else f"{obj.__name__}_{suffix}", obj)
        return obj

    def get(self, name: str, suffix: str = "basicsr") -> Any:
        """Return the object of this name, or of ``name_suffix``.

        Raises:
            KeyError: when there is neither.
        """
        for key in (name, f"{name}_{suffix}"):
            if key in self._all():
                return self._all()[key]
        raise KeyError(f"No object named '{name}' found in '{self._name}' registry!")

    def __contains__(self, name: str) -> bool:
        return name in self._all()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._all().items())

    def keys(self) -> KeysView[str]:
        """Return all names, those of the host included."""
        return self._all().keys()

    def fill(self) -> dict[str, Any]:
        """Import the modules that fill the table, once, and return it without the host's objects."""
        sources, self._sources = self._sources, []
        try:
            for package, suffix in sources:
                import_modules_with_suffix(package, suffix)
        except BaseException:
            self._sources = sources
            raise
        return self._obj_map

    def _all(self) -> dict[str, Any]:
        table = self.fill()
        return table if self.host is None else {**self.host._obj_map, **table}


ARCH_REGISTRY = Registry("arch", ("d2sm_plugin.archs", "_arch"))
DATASET_REGISTRY = Registry("dataset", ("d2sm_plugin.data", "_dataset"))
LOSS_REGISTRY = Registry("loss", ("d2sm_plugin.losses", "_loss"), ("d2sm_plugin.losses", "_sampler"))
METRIC_REGISTRY = Registry("metric", ("d2sm_plugin.metrics", "_metric"))
MODEL_REGISTRY = Registry("model", ("d2sm_plugin.models", "_model"))
FEATURE_REGISTRY = Registry("feature", ("d2sm_plugin.features", "_features"))
DEGRADATION_REGISTRY = Registry("degradation", ("d2sm_plugin.degradations", "_degradation"))
LOGGER_REGISTRY = Registry("logger", ("d2sm_plugin.loggers", "_logger"))
REGISTRIES = (
    ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY, FEATURE_REGISTRY,
    DEGRADATION_REGISTRY,
)  # fmt: skip


def register_in(registry: Any, *names: str, kind: str = "loss") -> list[str]:
    """Register this package's objectives, or other classes, in the registry of another project.

    It serves any registry with the methods of BasicSR's (``register``, ``in``), such as those of traiNNer-redux and
    neosr: ``register_in(LOSS_REGISTRY)``.

    Args:
        registry: of the other project.
        names: what to register; all of the kind if none is given.
        kind: ``"loss"``, ``"arch"``, ``"dataset"``, ``"metric"`` or ``"model"``; all but the first two need BasicSR.

    Returns:
        The names that were registered. A name that the registry holds already keeps its meaning there; a warning names
        it, unless it is ours.

    Raises:
        OptionError: for an unknown kind or name.
    """
    kinds = {table._name: table for table in (ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY)}
    kinds["model"] = MODEL_REGISTRY
    if kind not in kinds:
        raise OptionError(f"register_in: no kind '{kind}'{suggest(kind, kinds)}")
    table = kinds[kind].fill()
    for name in names:
        if name not in table:
            raise OptionError(f"register_in: no {kind} of d2sm_plugin is called '{name}'{suggest(name, table)}")
    chosen = names or tuple(table)
    taken = [name for name in chosen if name in registry]
    foreign = [name for name in taken if origin(registry.get(name)) != origin(table[name])]
    if foreign:
        warnings.warn(
            f"d2sm_plugin: {', '.join(foreign)} not registered, as the {kind} registry holds other objects of that "
            f"name; import them from d2sm_plugin instead",
            stacklevel=2,
        )
    for name in chosen:
        if name not in taken:
            registry.register(table[name])
    return [name for name in chosen if name not in taken]


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


def register(registry: Any) -> Callable[[T], T]:
    """Return a decorator that registers an object under its ``__name__``, in a registry of ours or of BasicSR.

    Registering the same definition twice (a module imported again, or reloaded) is harmless: the newer one stays.

    Raises:
        RegistrationError: when another object holds the name already; the message names both modules.
    """

    def decorator(obj: T) -> T:
        _claim(registry, obj.__name__, obj)  # type: ignore[attr-defined]  # classes and functions have a name
        return obj

    return decorator


def _claim(registry: Any, name: str, obj: Any) -> None:
    """Enter an object of this name, unless another one holds it here or in the host."""
    tables = [registry._obj_map]
    if getattr(registry, "host", None) is not None and name in registry.host._obj_map:
        tables.append(registry.host._obj_map)
    for table in tables:
        holder = table.get(name)
        if holder is None or origin(holder) == origin(obj):
            table[name] = obj
        elif table is registry._obj_map or not obj.__module__.startswith("d2sm_plugin."):
            raise RegistrationError(
                f"'{name}' is claimed twice in the {registry._name} registry: by module {holder.__module__} and by "
                f"module {obj.__module__}. Do not import both in one process, or rename one of them."
            )
        # Otherwise a fork of BasicSR has an objective or network of this name, too, which stays the one it finds.


def origin(obj: Any) -> tuple[str, str]:
    """Origin of an object: file and name, which stay equal when one module is imported under two names."""
    try:
        file = inspect.getfile(obj)
    except TypeError:
        file = obj.__module__
    return file, obj.__qualname__


def lookup(registry: Any, name: str, where: str) -> Any:
    """Return the object registered as ``name``.

    Args:
        registry: one of ours or of BasicSR's.
        name: the value of a ``type`` key.
        where: path of the key for the message, for example ``"train.d2sm_opt.type"``.

    Raises:
        OptionError: for an unknown name; the message lists the known ones and the nearest.
    """
    for key in (name, f"{name}_basicsr"):
        if key in registry:
            return registry.get(key)
    raise OptionError(f"{where}: no {registry._name} is registered as '{name}'{suggest(name, registry.keys())}")


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


def build(registry: Any, block: Mapping[str, Any], where: str) -> Any:
    """Build the object that an option block ``{"type": NAME, **arguments}`` describes.

    Raises:
        OptionError: when ``type`` is missing or unknown, or an argument is unknown or missing.
        ForeignError: for whatever else the constructor raises.
    """
    if "type" not in block:
        raise OptionError(f"{where}: the key 'type' is missing{suggest('', registry.keys())}")
    arguments = {key: value for key, value in block.items() if key != "type"}
    target = lookup(registry, block["type"], f"{where}.type")
    check_arguments(target, arguments, where)
    from d2sm_plugin.boundary import foreign_code  # which imports torch

    with foreign_code(f"{where}: {block['type']}"):
        return target(**arguments)
