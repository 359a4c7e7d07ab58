"""The site's own steps: README.md is its first page, and links that lead out of docs/ go to the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add README.md as ``index.md``, with its links as seen from docs/."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Leave of links to files outside docs/ their text; fail where there is no such file."""
    folder = ROOT / "docs" / Path(page.file.src_uri).parent

    def resolved(match: re.Match[str]) -> str:
        _, text, name, _ = match.groups()
        target = next((base / name for base in (folder, ROOT) if (base / name).exists()), None)
        if target is None:
            raise PluginError(f"docs/{page.file.src_uri}: the link to {name} leads nowhere")
        inside = target.resolve().is_relative_to(ROOT / "docs") and target.is_file()
        return match.group(0) if inside else text

    return _LINK.sub(resolved, markdown)
