"""The only door to mmsegmentation: importing it, and finding the configs it ships."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import DependencyError, OptionError
from d2sm_plugin.extras import install_command, missing
from d2sm_plugin.files import existing_file
from d2sm_plugin.random_guard import untouched_random_state
from d2sm_plugin.seg.plain_config import SUFFIXES, read_plain_config

#: Folder of the configs that come with this package.
OWN_CONFIGS = Path(__file__).parent / "configs"


def require_mmseg() -> None:
    """Import mmsegmentation and register its networks.

    Both the maintained forks (``onedl-mmsegmentation``) and OpenMMLab's own packages give the module ``mmseg``.

    Raises:
        DependencyError: when it is missing, or refuses to import; the message says how to get it.
    """
    try:
        with untouched_random_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its remarks on optional parts that are not installed
            import mmseg.models  # noqa: F401
    except (ImportError, AssertionError, AttributeError, RuntimeError) as error:
        raise missing("mmseg", "segmentation", error) from error


@contextmanager
def nothing_unpickled() -> Iterator[None]:
    """Make every ``torch.load`` of other packages read with ``weights_only``, whatever it asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def find_config(config: str | Path) -> Path:
    """Return the file of an mmseg config.

    Args:
        config: a path; or the name of a config of this package or of one that mmseg ships, with or without its folder
            and ``.py`` (``fcn_hr48_4xb2-160k_cityscapes-512x1024``). A path that exists goes before a name.

    Raises:
        OptionError: when there is neither such a file nor such a name; the message gives the nearest names.
        DependencyError: when mmseg is needed to look the name up, and missing.
    """
    path = existing_file(config)
    if path is not None:
        return path.resolve()
    name = Path(config).stem if str(config).endswith(".py") else Path(config).name
    packaged = {file.stem: file for file in sorted(OWN_CONFIGS.glob("*.py"))}
    if name in packaged:
        return packaged[name]
    shipped = _shipped_configs()
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(name, [*packaged, *shipped], n=3, cutoff=0.5)
    raise OptionError(
        f"config '{str(config)[:200]}': no such file, and neither this package ({', '.join(packaged)}) nor mmseg ships "
        f"a config of that name" + (f"; near ones: {', '.join(near)}" if near else "")
    )


def shipped_config(name: str) -> str:
    """Return the path of a config that mmseg ships, for the ``_base_`` line of a config that inherits from it."""
    shipped = _shipped_configs()
    if name not in shipped:
        raise OptionError(f"the installed mmseg ships no config '{name}'; use mmsegmentation 1.x")
    return str(shipped[name])


def _shipped_configs() -> dict[str, Path]:
    """Name to file of every config mmseg ships; installs from wheels and from a checkout keep them in other places."""
    require_mmseg()
    import mmseg

    package = Path(mmseg.__file__).parent
    for folder in (package / ".mim" / "configs", package.parent / "configs"):
        if (folder / "_base_").is_dir():
            files = sorted(folder.rglob("*.py"))
            return {file.stem: file for file in files if "_base_" not in file.relative_to(folder).parts}
    raise DependencyError(
        f"mmseg at {package} comes without its configs; give the path of a config, or install with: "
        f"{install_command('seg')}"
    )


def read_config(config: str | Path) -> Any:
    """Read an mmseg config with everything it inherits.

    A config in Python (``.py``) is run by reading it: use those you trust. One in YAML or JSON is data, see
    :mod:`d2sm_plugin.seg.plain_config`.

    Args:
        config: see :func:`find_config`.

    Returns:
        An ``mmengine.Config``.

    Raises:
        OptionError: when it cannot be read or describes no segmentation network.
    """
    require_mmseg()
    from mmengine import Config

    path = find_config(config)
    try:
        loaded = Config(read_plain_config(path)) if path.suffix in SUFFIXES else Config.fromfile(str(path))
    except OptionError:
        raise
    except Exception as error:  # a config is a program, which may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise OptionError(f"{path}: cannot be read as an mmseg config ({reason})") from error
    if not isinstance(loaded.get("model"), dict) or "type" not in loaded.model:
        raise OptionError(f"{path}: no 'model' with a 'type' in it; expected an mmseg config of a segmentation network")
    return loaded
