"""Arguments of classes and functions, as types that values of an option file can be held against.

The annotations are the truth. BasicSR's classes have none: for them :mod:`d2sm_plugin.options.host_arguments` says what
an argument of a name takes, or else the default does.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Len
from pydantic import ConfigDict, TypeAdapter

from d2sm_plugin.argument_types import AtLeast, BlockOf
from d2sm_plugin.options.host_arguments import EVERYWHERE, host_argument, is_of_host

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_PLAIN = (bool, int, float, str, Any, None, type(None))
_SEQUENCES = (list, set, frozenset, Sequence, Iterable, Collection)
_UNIONS = (Union, types.UnionType)
#: Generics whose parameters are only known at run time.
_DICT: Any = dict
_LIST: Any = list
_ANNOTATED: Any = Annotated


@dataclass(frozen=True)
class Argument:
    """One argument of a class or function.

    Attributes:
        name: of it.
        hint: type of its values in an option file.
        required: whether it has no default.
        default: its default, if it has one.
        block: the registry and kind of an option block that may stand here; None where none may.
        is_file: whether it names a file that the constructor reads.
    """

    name: str
    hint: Any
    required: bool
    default: Any = None
    block: BlockOf | None = None
    is_file: bool = False

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        """Validator of its values."""
        return TypeAdapter(self.hint, config=_STRICT)


@dataclass(frozen=True)
class Signature:
    """Arguments that a class or function takes.

    Attributes:
        arguments: by name.
        open: whether it takes arguments of any other name as well.
    """

    arguments: Mapping[str, Argument]
    open: bool


def signature_of(target: Callable[..., Any], without: Sequence[str] = ()) -> Signature:
    """Return what a class or function takes from an option file.

    Args:
        target: the class or function.
        without: arguments that do not come from there, such as the parameters of an optimiser.
    """
    parameters = inspect.signature(target).parameters.values()
    hints = _hints(target)
    arguments = {}
    for parameter in parameters:
        if parameter.name in without or parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            continue
        hint = hints.get(parameter.name, parameter.empty)
        if hint is parameter.empty or (hint in (int, float) and parameter.name in EVERYWHERE):
            hint = host_argument(target, parameter)
        elif parameter.default is None:  # also where its author has left None out
            hint = hint | None if isinstance(hint, type) else hint
        arguments[parameter.name] = Argument(
            parameter.name,
            option_type(hint),
            parameter.default is parameter.empty,
            None if parameter.default is parameter.empty else parameter.default,
            _block_of(hint),
            Path in get_args(hint) or hint is Path or (is_of_host(target) and parameter.name.endswith("_path")),
        )
    # BasicSR's metrics swallow what they do not know, so that a misspelt argument would go unnoticed.
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters) and not is_of_host(target)
    return Signature(arguments, takes_any)


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports, or no Python function
        return {}


def _block_of(hint: Any) -> BlockOf | None:
    # Before Python 3.11 a default of None puts the hint into an Optional.
    hints = (hint, *get_args(hint)) if get_origin(hint) in _UNIONS else (hint,)
    marks = (mark for alternative in hints for mark in getattr(alternative, "__metadata__", ()))
    return next((mark for mark in marks if isinstance(mark, BlockOf)), None)


def option_type(hint: Any) -> Any:
    """Return the type that a value of an option file must have for an argument annotated so.

    Modules, tensors and other objects cannot stand in a file: as members of a union they fall away, alone they leave
    the argument unchecked. Tuples are lists there, and paths are texts.
    """
    origin, members = get_origin(hint), get_args(hint)
    if origin is Annotated:
        marks = [Ge(mark.least) if isinstance(mark, AtLeast) else mark for mark in hint.__metadata__]
        constraints = [mark for mark in marks if not isinstance(mark, BlockOf)]
        inner = option_type(members[0])
        return reduce(lambda narrowed, mark: _ANNOTATED[narrowed, mark], constraints, inner)
    if origin in _UNIONS:
        possible = [option_type(member) for member in members if option_type(member) is not Any or member is Any]
        return reduce(or_, possible) if possible else Any
    if origin is Literal or hint in _PLAIN:
        return hint
    return _collection(origin or hint, members) or (str if hint is Path else Any)


def _collection(kind: Any, members: tuple[Any, ...]) -> Any:
    """Return the type of a list or block with such members; None for anything else."""
    if kind in (dict, Mapping):
        return _DICT[str, option_type(members[1]) if members else Any]
    if kind in _SEQUENCES or (kind is tuple and (not members or members[1:] == (Ellipsis,))):
        return _LIST[option_type(members[0]) if members else Any]
    if kind is tuple:
        item = reduce(or_, [option_type(member) for member in members])
        return _ANNOTATED[_LIST[item], Len(len(members), len(members))]
    return None
