"""Weight files: safetensors or torch's own, with a description of the network that they belong to."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from d2sm_plugin.errors import CheckpointError
from d2sm_plugin.files import existing_file
from d2sm_plugin.version import __version__

SAFETENSORS, PTH = ".safetensors", ".pth"
#: Entry under which a file keeps its description, in the metadata of safetensors or beside ``params``.
ABOUT = "d2sm"
#: How torch names what it refuses to unpickle.
_REFUSED = re.compile(r"Unsupported (?:global|class|operand)[^\n]*?GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class Description:
    """A weight file's description of itself.

    Attributes:
        network: block of an option file that builds the network, with its ``type``.
        recipe: name of the training.
        step: training step after which the weights were saved.
        package: name and version of the writer.
    """

    network: Mapping[str, Any]
    recipe: str | None = None
    step: int | None = None
    package: str = f"d2sm-plugin {__version__}"

    @classmethod
    def from_json(cls, text: object, source: str) -> Description | None:
        """Return the description in a file; None where the writer knew none.

        Raises:
            CheckpointError: when it is none that this package wrote.
        """
        try:
            content = json.loads(text) if isinstance(text, str) else None
        except (ValueError, RecursionError):
            content = None
        if content == {}:
            return None
        network = content.get("network") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(network, dict) or not isinstance(network.get("type"), str):
            raise CheckpointError(
                f"{source}: its description ('{ABOUT}') is damaged; name the network yourself, or take another file"
            )
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})

    def to_json(self) -> str:
        """Return the text that a file keeps."""
        return json.dumps(asdict(self), default=str)


def write_tensors(
    file: IO[bytes], ending: str, wrapped: Mapping[str, Mapping[str, Tensor]], about: Description | None = None
) -> None:
    """Write state dicts into an open file.

    Args:
        file: to be written.
        ending: ``".safetensors"`` or ``".pth"``.
        wrapped: wrapper key (``params``, ``params_ema``) -> state dict. In safetensors, which know no wrappers, the
            names get the key and a dot in front.
        about: description to keep with it.
    """
    tensors = {key: {name: t.detach().cpu() for name, t in state.items()} for key, state in wrapped.items()}
    if ending == PTH:
        torch.save(tensors if about is None else {**tensors, ABOUT: about.to_json()}, file)
        return
    # Copies, since tensors that share memory cannot be written. One entry of metadata: more are written in any order.
    flat = {f"{key}.{name}": t.contiguous().clone() for key, state in tensors.items() for name, t in state.items()}
    file.write(safetensors.torch.save(flat, {ABOUT: "{}" if about is None else about.to_json()}))


def read_description(path: Path) -> Description | None:
    """Return a weight file's description of itself, or None where it has none.

    Raises:
        CheckpointError: when the file cannot be read, or the description is damaged.
    """
    if path.suffix == SAFETENSORS:
        with _reading_safetensors(path) as file:
            text = (file.metadata() or {}).get(ABOUT)
    else:
        loaded = load_file(path)
        text = loaded.get(ABOUT) if isinstance(loaded, Mapping) else None
    return None if text is None else Description.from_json(text, str(path))


def local_file(source: str | Path) -> Path:
    """Return the path of a checkpoint.

    Raises:
        CheckpointError: when there is no such file.
    """
    path = existing_file(source)
    if path is None:
        raise CheckpointError(f"{str(source)[:300]}: no such file; give the path of a checkpoint, or a URL")
    return path


def load_file(path: Path) -> object:
    """Return what a file of safetensors or of ``torch.save`` holds: tensors and plain values alone; nothing is run.

    The wrappers of a safetensors file that this package wrote are dictionaries again.

    Raises:
        CheckpointError: when it holds anything else, or cannot be read.
    """
    if path.suffix == SAFETENSORS:
        return _load_safetensors(path)
    try:
        if _is_compressed(path):
            raise CheckpointError(f"{path}: its content is compressed, which torch.save never does; save it again")
        return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        reason = f"it holds a '{refused[1]}'" if refused else "it holds more than weights, or is no checkpoint at all"
        raise CheckpointError(
            f"{path}: refused, because {reason}; convert it once, where you trust it, with "
            f"torch.save(model.state_dict(), ...)"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same here
        raise _unreadable(path, error) from error


def _is_compressed(path: Path) -> bool:
    """Tell whether a file could unpack to more than it has bytes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())


def _load_safetensors(path: Path) -> dict[str, Any]:
    try:
        with _reading_safetensors(path) as file:
            wrapped = ABOUT in (file.metadata() or {})
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dictionary
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    if not wrapped:
        return flat
    nested: dict[str, Any] = {}
    for name, tensor in flat.items():
        key, _, inner = name.partition(".")
        nested.setdefault(key, {})[inner] = tensor
    return nested


def _reading_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(f"{path}: cannot be read as a checkpoint ({reason}); is it truncated?")
