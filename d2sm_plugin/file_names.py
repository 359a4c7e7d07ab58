"""Names that become folders or files, so that none of them leads elsewhere or cannot be written."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

#: Longest name in bytes: file systems take 255, and steps, endings and ``_archived_TIME`` are appended to names.
LONGEST = 150
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028\u2029]')


def check_file_name(name: str) -> str:
    """Return a name that can be that of a file or folder on any system.

    Raises:
        ValueError: for a name that is empty, leads out of its folder (``..``), has separators, control characters or
            others that some system does not allow, begins or ends with a space, ends with a dot, or is too long.
    """
    bad = _FORBIDDEN.search(name)
    if bad:
        raise ValueError(f"expected a name for a file or folder, which {bad.group()!r} cannot be part of, got {name!r}")
    if not name or name != name.strip() or name.endswith("."):
        raise ValueError(f"expected a name for a file or folder, no space around it and no dot behind, got {name!r}")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST:
        raise ValueError(f"expected a name of at most {LONGEST} bytes, got {len(name.encode())}")
    return name


FileName = Annotated[str, AfterValidator(check_file_name)]
