"""Mending of what keeps BasicSR 1.4.2 from importing beside current libraries and from resuming on a CPU; in memory."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_REMOVED_MODULE = "torchvision.transforms.functional_tensor"


def mend_torchvision() -> None:
    """Give ``import basicsr`` the torchvision module that it asks for and that newer releases removed.

    torchvision 0.17 dropped ``torchvision.transforms.functional_tensor``; the one function BasicSR takes from it
    (``rgb_to_grayscale``) lives on in ``torchvision.transforms.functional``. The removed name becomes an alias of
    that module when somebody imports it. Where torchvision still has the module, that one is found.
    """
    if not any(isinstance(finder, _RemovedModule) for finder in sys.meta_path):
        sys.meta_path.append(_RemovedModule())  # behind all others


class _RemovedModule(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == _REMOVED_MODULE else None

    def exec_module(self, module: ModuleType) -> None:
        from torchvision.transforms import functional

        sys.modules[module.__name__] = functional


def mend_resume(module: ModuleType) -> None:
    """Let BasicSR's own trainer (``basicsr.train``) read a training state where there is no GPU.

    It looks for the state, notes it in the options, and then asks for the number of the GPU in any case.
    """
    load = getattr(module, "load_resume_state", None)
    if load is None or hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_resume_state(opt: dict[str, Any]) -> Any:
        import torch

        try:
            return load(opt)
        except (AssertionError, RuntimeError):
            if torch.cuda.is_available() or not opt["path"].get("resume_state"):
                raise
        state = torch.load(opt["path"]["resume_state"], map_location="cpu", weights_only=True)
        module.check_resume(opt, state["iter"])
        return state

    vars(module)["load_resume_state"] = load_resume_state
