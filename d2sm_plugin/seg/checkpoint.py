"""Reading the checkpoints mmsegmentation publishes and writes, without running code they may contain."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from d2sm_plugin.errors import CheckpointError, suggest
from d2sm_plugin.weight_files import load_file, local_file
from d2sm_plugin.weights import check_finite, named_tensors

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
    """Contents of a segmentation checkpoint.

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
    """Stand-in for an unwanted object of a checkpoint: takes every construction and state, does nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


class _InertDict:
    """Maker of a plain dict in place of a subclass, because ``weights_only`` fills no other."""

    def __new__(cls, *_args: object) -> dict[Any, Any]:  # type: ignore[misc]
        return {}


class _InertList:
    """Maker of a plain list likewise."""

    def __new__(cls, *_args: object) -> list[Any]:  # type: ignore[misc]
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
    with _harmless_types_skipped(path):
        loaded = load_file(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: expected a checkpoint of mmseg, found {type(loaded).__name__}")
    state = next((loaded[key] for key in ("state_dict", "model") if isinstance(loaded.get(key), Mapping)), loaded)
    tensors = named_tensors(state, str(path))
    check_finite(tensors, str(path), ())
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
    try:
        colours = tuple((int(red), int(green), int(blue)) for red, green, blue in palette or ())
    except (TypeError, ValueError):
        colours = ()
    if len(colours) != len(names) or not all(0 <= min(c) <= max(c) <= 255 for c in colours):
        colours = ()  # as from a file that names none; others are made up
    return names, colours


def _local(source: str) -> Path:
    if source.startswith(PACKAGE):
        shipped = {path.stem: path for path in SHIPPED_WEIGHTS.glob("*.pth")}
        name = source.removeprefix(PACKAGE)
        if name not in shipped:
            raise CheckpointError(f"{source}: this package ships no such weights{suggest(name, shipped)}")
        return shipped[name]
    if not source.startswith(("http://", "https://")):
        return local_file(source)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source).path).name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)  # published names end in the start of their SHA-256
        try:
            torch.hub.download_url_to_file(source, str(path), hash_prefix=digest and digest.group(1), progress=True)
        except Exception as error:  # of the network, of the hub or of the file system
            raise CheckpointError(f"{source}: cannot be downloaded ({error}); give a local path instead") from error
    return path


def _harmless_types_skipped(path: Path) -> contextlib.AbstractContextManager[object]:
    """Return a context in which loading with ``weights_only`` puts inert objects in place of harmless foreign ones."""
    serialization = torch.serialization
    try:
        foreign = serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  # not a zip file: the old format, or damaged, which loading itself will tell
        return contextlib.nullcontext()
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
    expected = network.state_dict()
    other_shape = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if other_shape:
        name = other_shape[0]
        raise CheckpointError(
            f"{checkpoint.source}: {len(other_shape)} tensors are of another shape than the config builds (first: "
            f"{name}, {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}); give the config it was "
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
