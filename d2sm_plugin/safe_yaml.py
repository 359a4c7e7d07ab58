"""Reading YAML without giving it the power to run code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from d2sm_plugin.errors import OptionError


class OptionLoader(yaml.SafeLoader):
    """PyYAML's safe loader, plus floats such as ``1e-4`` and an error for a key given twice."""


# YAML 1.1 takes ``1e-4`` for a string, because it lacks a dot; everybody who writes it means a number.
OptionLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


def _construct_mapping(loader: OptionLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str) and key in seen:
            raise OptionError(f"line {key_node.start_mark.line + 1}: the key '{key}' is given twice; keep one of them")
        if isinstance(key, str):
            seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


OptionLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: the YAML.
        source: where it comes from, for messages.

    Raises:
        OptionError: for malformed YAML, a key given twice, or tags that would build Python objects.
    """
    try:
        return yaml.load(text, Loader=OptionLoader)  # OptionLoader derives from SafeLoader
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from None
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise OptionError(
            f"{source}: line {line}: {error.problem}; option files hold plain values only, no tags that build objects"
        ) from error
    except yaml.YAMLError as error:
        raise OptionError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (UTF-8).

    Raises:
        OptionError: when the file is missing, unreadable, malformed, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OptionError(f"{path}: no such option file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read ({error})") from error
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise OptionError(f"{path}: expected 'key: value' lines at the top, found {type(value).__name__}")
    return value
