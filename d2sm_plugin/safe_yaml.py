"""Reading YAML without giving it the power to run code, or to take more than its share of time and memory."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from d2sm_plugin.errors import OptionError

#: Bounds of a text: bytes, blocks within blocks, and values once every ``*alias`` is written out.
MAX_BYTES, MAX_DEPTH, MAX_VALUES = 1 << 18, 40, 50_000
_TOO_LONG = f"longer than {MAX_BYTES // 1024} KiB, which no option file needs"
_LARGEST = 2**63 - 1


class OptionLoader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's idea of a number, and an error for a key given twice.

    ``1e-4`` is a number, although it lacks YAML 1.1's dot. ``010``, ``1:30`` and ``2024-01-31`` are texts, not 8, 90
    and a date: nobody who writes them into an option file means that.
    """


_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_REPLACED = (f"{_TAG}float", f"{_TAG}int", f"{_TAG}timestamp")
_PLAIN = (None, *(f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")))
OptionLoader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _PLAIN}
OptionLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
OptionLoader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
OptionLoader.add_implicit_resolver(f"{_TAG}int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))


def _construct_mapping(loader: OptionLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        key = "<<" if key_node.tag == _MERGE else loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            continue  # refused below
        if key in seen:
            raise OptionError(f"line {_line(key_node)}: the key {key!r} is given twice; keep one of them")
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)  # which takes in what merge keys (<<) name


def _construct_int(loader: OptionLoader, node: yaml.ScalarNode) -> int:
    digits = loader.construct_scalar(node).replace("_", "")
    if len(digits) > len(str(_LARGEST)) + 1 or abs(int(digits)) > _LARGEST:
        raise OptionError(f"line {_line(node)}: an integer of {len(digits)} digits is more than 64 bits hold")
    return int(digits)


def _construct_str(loader: OptionLoader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise OptionError(f"line {_line(node)}: half of a surrogate pair is no character; write the whole one")
    return text


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


OptionLoader.add_constructor(f"{_TAG}map", _construct_mapping)
OptionLoader.add_constructor(f"{_TAG}int", _construct_int)
OptionLoader.add_constructor(f"{_TAG}str", _construct_str)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: the YAML.
        source: where it comes from, for messages.

    Raises:
        OptionError: for malformed YAML, a key given twice, tags that would build Python objects, or a text beyond the
            bounds of this module.
    """
    try:
        _check_bounds(text)
        return yaml.load(text, Loader=OptionLoader)  # OptionLoader derives from SafeLoader
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from None
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        problem = str(error.problem)
        tags = "; option files hold plain values only, no tags that build objects" if "tag" in problem else ""
        raise OptionError(f"{source}: line {line}: {problem}{tags}") from error
    except yaml.YAMLError as error:
        raise OptionError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error
    except (ValueError, KeyError) as error:  # values that their written-out tag does not fit, such as !!float x
        raise OptionError(f"{source}: not valid YAML ({error})") from error


def _check_bounds(text: str) -> None:
    """Refuse texts that would take much memory, time or stack, from the parser's events and before anything is built.

    Raises:
        OptionError: when a bound is passed.
    """
    if len(text) > MAX_BYTES:
        raise OptionError(_TOO_LONG)
    sizes: dict[str | None, int | None] = {}  # values below each anchor; None while its block is open
    open_blocks: list[list[Any]] = [[None, 0]]  # anchor, and number of values so far
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark is not None else "?"
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(event.anchor, 1)
            if size is None:
                raise OptionError(f"line {line}: '*{event.anchor}' stands inside the block that it names")
            open_blocks[-1][1] += size
        elif isinstance(event, yaml.CollectionStartEvent):
            sizes[event.anchor] = None
            open_blocks.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_blocks.pop()
            sizes[anchor] = size
            open_blocks[-1][1] += size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1
            open_blocks[-1][1] += 1
        if len(open_blocks) > MAX_DEPTH:
            raise OptionError(f"line {line}: more than {MAX_DEPTH - 1} blocks within each other")
        if open_blocks[-1][1] > MAX_VALUES:
            raise OptionError(f"line {line}: more than {MAX_VALUES:,} values, counting what aliases (*) repeat")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (UTF-8).

    Raises:
        OptionError: when the file is missing, unreadable, malformed, or not a mapping.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise OptionError(f"{path}: {_TOO_LONG}")
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise OptionError(f"{path}: no such option file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read ({error})") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise OptionError(f"{path}: expected 'key: value' lines at the top, found {type(value).__name__}")
    return value
