"""The plugin's place in BasicSR: whatever is imported first, BasicSR's registries know the plugin's classes.

Importing BasicSR takes seconds, and many projects have a ``basicsr`` folder of their own, so nothing here imports it.
As soon as anybody has imported ``basicsr.utils.registry``, its five registries learn to look further: a name that they
do not hold is looked up in the plugin's registry of the same name, which imports its modules then.
``basicsr.models.build_model``, through which BasicSR's own trainer and tester build models, then lets the plugin fit
its objectives and its own models in; its trainer can resume on a CPU; and its data sets share LMDBs with the plugin's.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any

from d2sm_plugin import registry as ours
from d2sm_plugin.compat import mend_resume

NAMES = ("ARCH_REGISTRY", "DATASET_REGISTRY", "LOSS_REGISTRY", "METRIC_REGISTRY", "MODEL_REGISTRY")


def join_host() -> None:
    """Join BasicSR's registries with the plugin's, and its own trainer: now if it is imported, else when it is."""
    for name, changes in CHANGES.items():
        for change in changes if name in sys.modules else ():
            change(sys.modules[name])
    if not any(isinstance(finder, _HostFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HostFinder())


class _HostFinder(MetaPathFinder):
    """Finder of BasicSR's modules by way of the other finders; what is to be changed is changed once they have run."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname not in CHANGES:
            return None
        finders = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec is not None and spec.loader is not None:
            for change in CHANGES[fullname]:
                _after_loading(spec.loader, fullname, change)
        return spec


def _after_loading(loader: Loader, name: str, then: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == name:  # a loader may serve several modules
            then(module)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _join(module: ModuleType) -> None:
    """Let the registries of BasicSR's module and the plugin's find each other's objects."""
    for name in NAMES:
        host, table = getattr(module, name, None), getattr(ours, name)
        if hasattr(host, "_obj_map") and table.host is not host:
            table.host = host
            host.__class__ = _joined(type(host), table)


def _joined(base: type, table: ours.Registry) -> type:
    """Class of a registry of BasicSR's that takes over the plugin's objects when it lacks a name, or lists all."""

    class JoinedRegistry(base):
        def _take_over(self) -> None:
            try:
                taken = table.fill()
            except ImportError as error:  # a fork that lacks what the plugin's models or datasets are built on
                warnings.warn(f"d2sm_plugin: no {self._name} of it is registered here: {error}", stacklevel=3)
                return
            for name, obj in taken.items():
                holder = self._obj_map.setdefault(name, obj)
                if ours.origin(holder) != ours.origin(obj) and name not in announced:
                    announced.add(name)
                    warnings.warn(
                        f"d2sm_plugin: '{name}' stays that of module {holder.__module__} in the {self._name} registry; "
                        f"import the other one from {obj.__module__}",
                        stacklevel=3,
                    )

        def get(self, name: str, *args: Any, **kwargs: Any) -> Any:
            if name not in self._obj_map:
                self._take_over()
            return super().get(name, *args, **kwargs)

        def __contains__(self, name: str) -> bool:
            if name not in self._obj_map:
                self._take_over()
            return super().__contains__(name)

        def __iter__(self) -> Any:
            self._take_over()
            return super().__iter__()

        def keys(self) -> Any:
            self._take_over()
            return super().keys()

    announced: set[str] = set()
    return JoinedRegistry


def _build_with_plugin(module: ModuleType) -> None:
    """Let ``build_model`` of BasicSR's module build the plugin's models, and fit its objectives into the others."""
    build = getattr(module, "build_model", None)
    if build is None or hasattr(build, "__wrapped__"):
        return

    @functools.wraps(build)
    def build_model(opt: dict[str, Any]) -> Any:
        models = importlib.import_module("d2sm_plugin.models.host_models")  # torch and more: not at the top
        return models.build_in_host(opt, build, _build_plugin_model)

    vars(module)["build_model"] = build_model


def _build_plugin_model(opt: Mapping[str, Any]) -> Any:
    return importlib.import_module("d2sm_plugin.pipeline.host_trainer").build_in_host(opt)


def _share_lmdbs(module: ModuleType) -> None:
    """Let BasicSR's ``FileClient`` and the plugin read an LMDB through one environment, as the module imported does."""
    try:
        importlib.import_module("d2sm_plugin.data.lmdb_store")
    except ModuleNotFoundError as error:
        if error.name != "lmdb":  # without it there are no environments to share
            raise


#: Module of BasicSR -> what is changed in it, in memory, once it is imported.
CHANGES: dict[str, tuple[Callable[[ModuleType], None], ...]] = {
    "basicsr.utils.registry": (_join,),
    "basicsr.utils.file_client": (_share_lmdbs,),
    "basicsr.models": (_build_with_plugin,),
    "basicsr.train": (_build_with_plugin, mend_resume),
    "basicsr.test": (_build_with_plugin,),
}
