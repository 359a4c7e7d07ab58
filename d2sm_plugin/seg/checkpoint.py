"""Reading the checkpoints mmsegmentation publishes and writes, without running code they may contain."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, suggest

#: Weights that ship with this package are named ``package:NAME``.
PACKAGE = "package:"
SHIPPED_WEIGHTS = Path(__file__).parents[1] / "demo" / "weights"

#: Beside the tensors, checkpoints hold logs and settings made of these types. None of them is wanted: an inert object
#: takes the place of each, so nothing of theirs runs. Any other type is refused.
_HARMLESS = re.compile(
    r"(numpy|mmengine\.(logging|config|utils)|mmcv\.utils|addict|collections|pathlib|datetime)(\.\w+)*\.\w+"
    r"|(builtins|__builtin__)\.(getattr|list|dict|set|frozenset|slice|complex)"
)
_LIKE_A_DICT = re.compile(r"(ConfigDict|defaultdict|addict(\.\w+)*\.Dict|Counter)$")
_LIKE_A_LIST = re.compile(r"deque$")


@dataclass(frozen=True)
class SegCheckpoint:
    """What a segmentation checkpoint holds.

    Attributes:
        source: where it came from, for messages.
        state: tensors by name.
        classes: names of the classes it was trained on, in order; empty when the file does not say.
        palette: one RGB colour per class, empty likewise.
    """

    source: str
    state: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = field(default=())


class _Inert:
    """Stands in for an unwanted object of a checkpoint: takes every construction and state, does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


class _InertDict:
    """Makes a plain dict in place of a subclass, because ``weights_only`` fills no other."""

    def __new__(cls, *_args: object) -> dict:  # type: ignore[misc]
        return {}


class _InertList:
    """Makes a plain list likewise."""

    def __new__(cls, *_args: object) -> list:  # type: ignore[misc]
        return []


def _stand_in(name: str) -> type:
    if _LIKE_A_DICT.search(name):
        return _InertDict
    return _InertList if _LIKE_A_LIST.search(name) else _Inert


def read_seg_checkpoint(source: str | Path) -> SegCheckpoint:
    """Read a checkpoint of a segmentation network.

    Old layout (mmseg 0.x: ``meta.CLASSES``, ``meta.PALETTE``) and new (1.x: ``meta.dataset_meta``), with or without
    optimiser and logs, and bare state dicts. Read with ``weights_only``: logs and settings of known types are skipped,
    any other object in the file is refused.

    Args:
        source: a path, an http(s) URL (downloaded once into torch's hub cache), or ``package:NAME`` for weights that
            ship with this package.

    Raises:
        CheckpointError: when it is missing, damaged, refused, or holds no tensors.
    """
    path = _local(str(source))
    loaded = _load(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: expected a checkpoint of mmseg, found {type(loaded).__name__}")
    state = next((loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), Mapping)), loaded)
    tensors = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: it holds no tensors; expected a checkpoint of mmseg")
    classes, palette = _described_classes(loaded.get("meta"))
    return SegCheckpoint(str(source), tensors, classes, palette)


def _described_classes(meta: object) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    if not isinstance(meta, Mapping):
        return (), ()
    described = meta.get("dataset_meta")
    if not isinstance(described, Mapping):
        described = {"classes": meta.get("CLASSES"), "palette": meta.get("PALETTE")}
    classes = described.get("classes")
    palette = described.get("palette")
    names = tuple(str(name) for name in classes) if isinstance(classes, (list, tuple)) else ()
    colours = tuple(tuple(int(v) for v in row) for row in palette) if isinstance(palette, (list, tuple)) else ()
    return names, colours if len(colours) == len(names) else ()


def _local(source: str) -> Path:
    if source.startswith(PACKAGE):
        shipped = {path.stem: path for path in SHIPPED_WEIGHTS.glob("*.pth")}
        name = source.removeprefix(PACKAGE)
        if name not in shipped:
            raise CheckpointError(f"{source}: this package ships no such weights{suggest(name, shipped)}")
        return shipped[name]
    if not source.startswith(("http://", "https://")):
        path = Path(source).expanduser()
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; give the path or URL of a checkpoint of mmseg")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)  # published names end in the start of their SHA-256
        try:
            torch.hub.download_url_to_file(source, str(path), hash_prefix=digest and digest.group(1), progress=True)
        except (URLError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{source}: cannot be downloaded ({error}); give a local path instead") from error
    return path


def _load(path: Path) -> object:
    try:
        with _harmless_types_skipped(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"Unsupported (?:global|class|operand)[^\n]*?GLOBAL ([\w.]+)", str(error))
        what = f"it holds a '{named.group(1)}'" if named else "it holds more than weights, or is no checkpoint at all"
        raise CheckpointError(
            f"{path}: refused, because {what}; convert it once, where you trust it, with "
            f"torch.save({{'state_dict': ..., 'meta': ...}}, ...)"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason}); is it truncated?") from error


def _harmless_types_skipped(path: Path) -> contextlib.AbstractContextManager[object]:
    """Return a context in which loading with ``weights_only`` puts inert objects in place of harmless foreign ones."""
    serialization = torch.serialization
    if not hasattr(serialization, "get_unsafe_globals_in_checkpoint"):  # before torch 2.6: such files are refused
        return contextlib.nullcontext()
    try:
        foreign = serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError):
        return contextlib.nullcontext()  # not a zip file: the old format, or damaged, which loading itself will tell
    return serialization.safe_globals([(_stand_in(name), name) for name in foreign if _HARMLESS.fullmatch(name)])


def load_into(network: nn.Module, checkpoint: SegCheckpoint, num_classes: int) -> None:
    """Load a checkpoint into a segmentation network; all of the network's tensors must come from it.

    Tensors of auxiliary heads, which only training uses, may be left over.

    Args:
        network: the network as mmseg built it.
        checkpoint: see :func:`read_seg_checkpoint`.
        num_classes: number of classes the network has, for the message.

    Raises:
        CheckpointError: when tensors are missing, left over or of another shape.
    """
    state = {name: value for name, value in checkpoint.state.items() if not name.startswith("auxiliary_head.")}
    if checkpoint.classes and len(checkpoint.classes) != num_classes:
        raise CheckpointError(
            f"{checkpoint.source}: trained on {len(checkpoint.classes)} classes ({', '.join(checkpoint.classes[:3])}, "
            f"...), but the config builds a network of {num_classes}; give the config it was trained with"
        )
    own = network.state_dict()
    other_shape = [name for name in own if name in state and state[name].shape != own[name].shape]
    if other_shape:
        name = other_shape[0]
        raise CheckpointError(
            f"{checkpoint.source}: {len(other_shape)} tensors are of another shape than the config builds (first: "
            f"{name}, {tuple(state[name].shape)} instead of {tuple(own[name].shape)}); give the config it was "
            f"trained with"
        )
    outcome = network.load_state_dict(state, strict=False)
    parts = [
        f"{len(names)} {label} (first: {names[0]})"
        for names, label in ((outcome.missing_keys, "missing"), (outcome.unexpected_keys, "left over"))
        if names
    ]
    if parts:
        raise CheckpointError(
            f"{checkpoint.source}: not a checkpoint of the network in this config; tensors: {', '.join(parts)}. Give "
            f"the config it was trained with"
        )
