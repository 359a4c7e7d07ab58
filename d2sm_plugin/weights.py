"""Reading weight files safely and fitting them to a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError

#: Wrappers under which published checkpoints keep their tensors, in order of preference.
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "netG", "model", "net")


def read_weights(source: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the flat state dict in a weight file, without running any code it may contain.

    Args:
        source: a path, or an http(s) URL (downloaded once into torch's hub cache).
        key: wrapper to take the tensors from (``"params_ema"``); None takes the first of :data:`WRAPPERS` that is
            there, or the file itself if it is flat. A leading ``module.`` of the names is removed.

    Raises:
        CheckpointError: when the file is missing, truncated, not a weight file, or lacks ``key``.
    """
    loaded = _load(source)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source}: expected a state dict, found {type(loaded).__name__}")
    if key is not None:
        if key not in loaded:
            raise CheckpointError(f"{source}: no entry '{key}'; it holds {', '.join(map(str, loaded))}")
        state = loaded[key]
    else:
        state = next((loaded[name] for name in WRAPPERS if isinstance(loaded.get(name), Mapping)), loaded)
    tensors = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{source}: it holds no tensors; expected a state dict of a network")
    return tensors


def _load(source: str | Path) -> object:
    if str(source).startswith(("http://", "https://")):
        try:
            return torch.hub.load_state_dict_from_url(str(source), map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"{source}: cannot be downloaded ({error}); give a local path instead") from error
    path = Path(source).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds more than weights (or is no checkpoint at all); convert it once, where "
            f"you trust it, with torch.save(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason}); is it truncated?") from error


def load_weights(network: nn.Module, source: str | Path, key: str | None = None, strict: bool = True) -> list[str]:
    """Load a weight file into a network.

    Published names are mapped by the network's ``convert_state_dict``; files of other kinds than torch's are read by
    its ``published_readers`` (see :mod:`d2sm_plugin.archs.interface`).

    Args:
        network: receives the tensors.
        source: path or URL.
        key: wrapper in the file, see :func:`read_weights`.
        strict: False leaves alone what does not fit, in either direction.

    Returns:
        The names of tensors that were not loaded (empty when ``strict``).

    Raises:
        CheckpointError: when the file cannot be read or, if ``strict``, does not fit the network.
    """
    reader = getattr(network, "published_readers", {}).get(Path(source).suffix.lower())
    state = read_weights(source, key) if reader is None else reader(source)
    convert = getattr(network, "convert_state_dict", None)
    if convert is not None:
        state = convert(state)
    own = network.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    wrong_shape = [name for name in own if name in state and own[name].shape != state[name].shape]
    if strict and (missing or unexpected or wrong_shape):
        parts = [
            f"{len(names)} {label} (first: {names[0]})"
            for names, label in ((missing, "missing"), (unexpected, "unexpected"), (wrong_shape, "of another shape"))
            if names
        ]
        raise CheckpointError(
            f"{source}: not a checkpoint of this {type(network).__name__}; tensors: {', '.join(parts)}. Give the "
            f"checkpoint of the same architecture and the same network options"
        )
    fitting = {name: state[name] for name in own if name in state and name not in wrong_shape}
    network.load_state_dict(fitting, strict=False)
    return sorted({*missing, *unexpected, *wrong_shape})
