"""Blocks of options held against typed models, and what is wrong with them in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from d2sm_plugin.errors import OptionError, suggest

_SHOWN = 60  # characters of a value in a message
_LISTED = 6  # possible values in a message that need no search for the nearest
_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "none_required": "nothing (~)",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_too_short": "a text that is not empty",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "string_pattern_mismatch": "a text with {pattern}",
}


class Block(BaseModel):
    """Base of typed blocks: no unknown keys, ``true`` and ``"1"`` are no numbers, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: An integer that may be written as ``5e3``, as BasicSR's option files write numbers of steps.
Whole = Annotated[int, BeforeValidator(_whole)]

Model = TypeVar("Model", bound=BaseModel)


def read_block(model: type[Model], block: Any, where: str) -> Model:
    """Return a block of options as its typed model.

    Args:
        model: what the block may hold.
        block: as it stands in an option file.
        where: path of the block for messages; empty for a whole file.

    Raises:
        OptionError: for an unknown key (with the nearest known one), a missing key or a value of the wrong type.
    """
    try:
        return model.model_validate(block)
    except ValidationError as error:
        raise OptionError(explain(error, where, model, block)) from None


def at_key(key: str, message: str) -> PydanticCustomError:
    """Return what a validator of a whole block raises about one of its keys."""
    return PydanticCustomError("at_key", "{message}", {"key": key, "message": message})


def explain(error: ValidationError, where: str, model: type[BaseModel] | None = None, block: Any = None) -> str:
    """Return the most telling of the mistakes in one line; unknown keys go first, as they explain missing ones.

    Args:
        error: pydantic's.
        where: path of the block.
        model: by which it was validated.
        block: that was validated.
    """
    mistakes: dict[tuple[int | str, ...], list[ErrorDetails]] = {}  # of a union, each member's refusal is one error
    for mistake in sorted(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden"):
        mistakes.setdefault(_path(mistake, block), []).append(mistake)
    first = next(iter(mistakes))
    # Of "a text or a list of texts", a mistake within the list tells more than that it is no text.
    path = next((other for other in mistakes if len(other) > len(first) and other[: len(first)] == first), first)
    errors = mistakes[path]
    rest = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    return f"{_phrase(where, path, errors, model)}{rest}"


def _path(error: ErrorDetails, block: Any) -> tuple[int | str, ...]:
    """Return the part of an error's location that is a path in what was given; the rest names members of unions."""
    path: list[int | str] = []
    for part in error["loc"]:
        if isinstance(block, list) and isinstance(part, str):
            continue  # the member of a union
        if not (isinstance(block, Mapping) and part in block) and not (isinstance(block, list) and type(part) is int):
            break
        path.append(part)
        block = block[part]  # type: ignore[index]  # the part is a position where a list is given
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    return tuple(path)


def _phrase(
    where: str, path: Sequence[int | str], errors: Sequence[ErrorDetails], model: type[BaseModel] | None
) -> str:
    first = errors[0]
    places = [*filter(None, [where]), *(" ".join(str(part).split()) for part in path)]
    if first["type"] == "at_key":
        places.append(first["ctx"]["key"])
    reason = _simple(first, path, model)
    if reason is None:
        wanted = " or ".join(dict.fromkeys(_expected(error) for error in errors))
        reason = f"expected {wanted}, got {shown(first['input'])}"
    return ": ".join(filter(None, (".".join(places), reason)))


def _simple(error: ErrorDetails, path: Sequence[int | str], model: type[BaseModel] | None) -> str | None:
    """Return what is wrong, where that needs no word of what was expected."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "literal_error" and isinstance(error["input"], str):
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"no value '{error['input']}'{suggest(error['input'], names)}" if len(names) > _LISTED else None
    return {
        "extra_forbidden": lambda: f"unknown key{suggest(str(path[-1]), _keys_at(model, path[:-1]))}",
        "missing": lambda: "this key is missing",
        "invalid_key": lambda: f"every key must be a text, got {shown(path[-1] if path else error['input'])}",
        "at_key": lambda: context["message"],
        "value_error": lambda: str(context["error"]),  # raised by a check of ours, which words the whole message
    }.get(kind, lambda: None)()


def _expected(error: ErrorDetails) -> str:
    if error["type"] in _EXPECTED:
        limits = {name: _plain(limit) for name, limit in error.get("ctx", {}).items()}
        return _EXPECTED[error["type"]].format(**limits)
    return error["msg"].removeprefix("Input should be ")


def _plain(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def shown(value: Any) -> str:
    """Return a value for a message, on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _keys_at(model: type[BaseModel] | None, path: Sequence[int | str]) -> list[str]:
    """Return the keys that the block at a path of a model may hold."""
    for part in path:
        field = model.model_fields.get(str(part)) if model is not None else None
        if field is not None:
            model = next(_models_in(field.annotation), None)
        # otherwise the part is a key or an index in a collection of such blocks
    return list(model.model_fields) if model is not None else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
