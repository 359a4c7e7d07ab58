"""One HTML page out of its parts: style and script inside, nothing from elsewhere, every text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from d2sm_plugin.studies.report.charts import IntervalChart, LineChart
from d2sm_plugin.studies.report.pictures import Comparison
from d2sm_plugin.version import __version__

_TEMPLATES = Path(__file__).parent / "templates"


class Tile(NamedTuple):
    """A figure that is seen first: what it is, its value, and what goes with it."""

    label: str
    value: str
    detail: str = ""


class Cell(NamedTuple):
    """A cell of a table; ``strong`` marks the best of a column."""

    text: str
    strong: bool = False


@dataclass
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows.
        headers: of the columns.
        rows: of cells.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass
class Listing:
    """A text that is folded away at first, such as an option file."""

    title: str
    text: str


@dataclass
class Section:
    """A section of the page; its parts are shown in the order of the attributes.

    Attributes:
        name: for links, made of letters.
        title: heading.
    """

    name: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    lines: list[LineChart] = field(default_factory=list)
    intervals: list[IntervalChart] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)

    def empty(self) -> bool:
        """Tell whether there is nothing in it."""
        parts = (self.paragraphs, self.tables, self.lines, self.intervals, self.comparisons, self.listings)
        return not any(parts)


@dataclass
class Page:
    """The whole page.

    Attributes:
        title: of the run or suite.
        kind: what it is a report of.
        subtitle: a line below the title.
        tiles: figures at the top.
        sections: empty ones are left out.
    """

    title: str
    kind: str
    subtitle: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]


def render(page: Page) -> str:
    """Return the page as HTML; its policy lets no request out and no other script run."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return environment.get_template("page.html").render(
        page=page,
        sections=[section for section in page.sections if not section.empty()],
        style=Markup(style),  # files of this package
        script=Markup(script),
        policy=policy,
        version=__version__,
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
