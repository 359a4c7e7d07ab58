"""Names that come from data and become those of files: none of them may lead out of its folder."""

from __future__ import annotations

import re

from d2sm_plugin.errors import DataError

_SEPARATOR = re.compile(r"[/\\]")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_key(key: str, where: str) -> str:
    """Return the key of an image, ``/`` between folders, that may be the relative path of a file.

    Args:
        key: of the image.
        where: what it comes from, for the message.

    Raises:
        DataError: for an absolute path, one with ``.`` or ``..`` in it, control characters or text that is not Unicode.
    """
    parts = _SEPARATOR.split(key)
    if _DRIVE.match(key) or any(part in ("", ".", "..") for part in parts):
        raise DataError(f"{where}: the name {key!r} leads out of the folder it belongs into; rename it")
    if _UNPRINTABLE.search(key):
        raise DataError(f"{where}: the name {key!r} holds a line break or another control character; rename it")
    try:
        key.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: the name {key!r} is not valid UTF-8; rename it") from None
    return key


def check_name(name: str, where: str) -> str:
    """Return a name that is to be a part of a file's name: a key without folders.

    Raises:
        DataError: as :func:`check_key`, and for a name with folders.
    """
    if len(_SEPARATOR.split(check_key(name, where))) > 1:
        raise DataError(f"{where}: the name {name!r} holds a separator of folders; rename it")
    return name
