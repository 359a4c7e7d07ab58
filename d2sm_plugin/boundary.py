"""The boundary to code that this package calls and did not write: what it raises becomes an error in one line."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch

from d2sm_plugin.errors import D2SMError, ForeignError

_LONGEST = 300  # characters of a foreign message


class foreign_code:  # noqa: N801  # reads as the statement it is: with foreign_code("..."):
    """Context in which any exception becomes a :class:`ForeignError`, with the exception as its cause.

    Our own errors pass, as they are in one line already, and so does a GPU that is out of memory, which has advice of
    its own.

    Args:
        where: what is called, as the beginning of the message: option key, class, and file, key or sample; a function
            that returns it where it takes time to say.
    """

    def __init__(self, where: str | Callable[[], str]) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, D2SMError | torch.OutOfMemoryError):
            return
        where = self.where if isinstance(self.where, str) else self.where()
        text = " ".join(str(error).split())
        text = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
        raise ForeignError(f"{where} raised {type(error).__name__}" + (f": {text}" if text else "")) from error
