"""Class sets: names, colours and which label values do not count."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.files import existing_file
from d2sm_plugin.safe_yaml import parse_yaml

Colour = tuple[int, int, int]

#: Label value that never counts, as in mmsegmentation.
IGNORE = 255


@dataclass(frozen=True)
class ClassSet:
    """The classes of a labelled set; class ``i`` has the label value ``i``.

    Attributes:
        name: for messages.
        names: one per class.
        palette: one RGB colour per class, each value 0 to 255.
        ignore: label values that do not count.
    """

    name: str
    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore: tuple[int, ...] = (IGNORE,)

    def __post_init__(self) -> None:
        if not 2 <= len(self.names) <= IGNORE:
            raise OptionError(f"classes '{self.name}': expected 2 to {IGNORE} classes, found {len(self.names)}")
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise OptionError(f"classes '{self.name}': the name '{twice[0]}' is there twice")
        if len(self.palette) != len(self.names):
            raise OptionError(
                f"classes '{self.name}': {len(self.palette)} colours for {len(self.names)} classes; give one per class"
            )
        counted = [value for value in self.ignore if value < len(self.names)]
        if counted:
            raise OptionError(f"classes '{self.name}': the ignored value {counted[0]} is also that of a class")

    def __len__(self) -> int:
        return len(self.names)


# Names and colours of the 19 classes as in the cityscapesScripts label table (train ids).
CITYSCAPES = ClassSet(
    "cityscapes",
    (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    ),
    (
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
        *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
        *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    ),
)

# The 11 classes in common use (SegNet), value 11 = unlabelled; colours of the CamVid label table.
CAMVID = ClassSet(
    "camvid",
    (*("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),),
    (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
    ignore=(11, IGNORE),
)

KNOWN = {"cityscapes": CITYSCAPES, "camvid": CAMVID}


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Return ``count`` distinct RGB colours, evenly spread over the hue circle at two levels of lightness."""
    import colorsys

    rows = (colorsys.hls_to_rgb(i / count, 0.40 + 0.25 * (i % 2), 0.75) for i in range(count))
    return tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in rows)


def load_class_set(source: str | Path) -> ClassSet:
    """Return a class set by name, or read it from a file.

    Args:
        source: ``cityscapes`` (19 train ids), ``camvid`` (11), or a file: ``.txt`` with one name a line, or YAML/JSON
            with a list of names, or with a mapping of ``classes`` (list of names), ``palette`` (list of RGB triples,
            optional) and ``ignore`` (list of label values beside 255, optional).

    Raises:
        OptionError: for an unknown name, or a file that cannot be read so.
    """
    if str(source) in KNOWN:
        return KNOWN[str(source)]
    path = existing_file(source)
    if path is None:
        raise OptionError(f"classes '{source}': no such class set or file{suggest(str(source), KNOWN)}, or a file")
    described = _parse(path)
    block = described if isinstance(described, Mapping) else {"classes": described}
    unknown = sorted(set(map(str, block)) - {"classes", "palette", "ignore"})
    if unknown:
        raise OptionError(f"{path}: unknown key '{unknown[0]}'{suggest(unknown[0], ('classes', 'palette', 'ignore'))}")
    names = block.get("classes")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise OptionError(f"{path}: expected a list of class names, or a mapping with such a list under 'classes'")
    palette = _palette(block.get("palette"), len(names), path)
    ignore = block.get("ignore", [])
    if not isinstance(ignore, list) or not all(type(v) is int and 0 <= v <= IGNORE for v in ignore):
        raise OptionError(f"{path}: 'ignore' must be a list of label values from 0 to {IGNORE}")
    return ClassSet(path.stem, tuple(names), palette, tuple(sorted({*ignore, IGNORE})))


def _parse(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        if path.suffix in (".yml", ".yaml"):
            return parse_yaml(text, str(path))
    except OptionError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(f"{path}: cannot be read as a class file ({' '.join(str(error).split())})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _palette(rows: Any, count: int, path: Path) -> tuple[Colour, ...]:
    if rows is None:
        return distinct_colours(max(count, 1))
    if not isinstance(rows, list) or not all(_is_colour(row) for row in rows):
        raise OptionError(f"{path}: 'palette' must be a list of [red, green, blue], each from 0 to 255")
    return tuple((row[0], row[1], row[2]) for row in rows)


def _is_colour(row: Any) -> bool:
    return isinstance(row, Sequence) and len(row) == 3 and all(type(v) is int and 0 <= v <= 255 for v in row)


def class_set_of_checkpoint(names: Sequence[str], palette: Sequence[Colour], source: str) -> ClassSet:
    """Return the class set that a checkpoint describes.

    Raises:
        OptionError: when it describes none; a class set must then be given.
    """
    if not names:
        raise OptionError(f"{source}: it does not say what its classes are; name them: cityscapes, camvid, or a file")
    folded = tuple(name.lower() for name in names)
    for known in KNOWN.values():
        if folded == known.names:
            return known  # which also knows the values to ignore
    return ClassSet(source, tuple(names), tuple(palette) or distinct_colours(len(names)))


def check_classes_fit(classes: ClassSet, num_classes: int, checkpoint_names: Sequence[str]) -> None:
    """Check that a class set is what a network was trained on.

    Args:
        classes: the class set of the labels.
        num_classes: number of classes the network tells apart.
        checkpoint_names: names in its checkpoint, may be empty.

    Raises:
        OptionError: when the number differs, or the checkpoint has the same names in another order.
    """
    if len(classes) != num_classes:
        raise OptionError(
            f"classes '{classes.name}': {len(classes)} classes, but the segmentation network has {num_classes}; give "
            f"the class set it was trained on"
        )
    names = [name.lower() for name in classes.names]
    trained = [name.lower() for name in checkpoint_names]
    if set(names) == set(trained) and names != trained:
        first = next(i for i, (a, b) in enumerate(zip(names, trained, strict=True)) if a != b)
        raise OptionError(
            f"classes '{classes.name}': class {first} is '{names[first]}', but '{trained[first]}' in the checkpoint; "
            f"list the classes in the order the network was trained on"
        )
