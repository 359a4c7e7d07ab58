"""``d2sm options``: lists, shows and copies the option files that ship with the package."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from d2sm_plugin.arguments import Parser, out_file, out_folder
from d2sm_plugin.errors import OptionError, suggest
from d2sm_plugin.files import write_whole
from d2sm_plugin.options.files import BASES_OF_SUITE, read_option_file, shipped_folder, shipped_names

#: Beginning of the line by which an option file names its JSON schema to editors.
EDITOR_LINE = "# yaml-language-server: $schema="


def main(argv: Sequence[str] | None = None) -> int:
    """List, show or copy option files as the command line says; see ``--help``."""
    arguments = build_parser().parse_args(argv)
    arguments.run(arguments)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all subcommands."""
    parser = Parser(
        description="The option files that ship with the package; -opt NAME and extends: NAME take them by name."
    )
    commands = parser.add_subparsers(title="commands", metavar="{list,show,copy,schema}", required=True)
    listing = commands.add_parser("list", help="names, and what each is for")
    listing.add_argument("part", nargs="?", default="", help="of the name, e.g. ffdnet or suites/")
    listing.set_defaults(run=_list)
    show = commands.add_parser("show", help="print a file, laid over what it extends")
    show.add_argument("name", metavar="NAME", help="of a shipped file, or a path")
    show.set_defaults(run=_show)
    copy = commands.add_parser("copy", help="copy a file and what it extends, to be changed")
    copy.add_argument("name", metavar="NAME", help="of a shipped file")
    copy.add_argument("--out", type=out_folder, default=Path("options"), help="folder (default: %(default)s)")
    copy.set_defaults(run=_copy)
    schema = commands.add_parser("schema", help="write the JSON schema by which editors check option files")
    schema.add_argument("--out", type=out_file, metavar="FILE", help="default: standard output")
    schema.set_defaults(run=_schema)
    return parser


def _schema(arguments: argparse.Namespace) -> None:
    from d2sm_plugin.options.json_schema import option_schema, schema_text  # which imports all that may be named

    text = schema_text(option_schema())
    if arguments.out is None:
        print(text, end="")  # noqa: T201
    else:
        write_whole(arguments.out, text)


def _list(arguments: argparse.Namespace) -> None:
    names = [name for name in shipped_names() if "shared/" not in name and arguments.part in name]
    if not names:
        raise OptionError(f"no shipped option file has '{arguments.part}' in its name; d2sm options list names all")
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {_summary(name)}")  # noqa: T201


def _summary(name: str) -> str:
    """Return the comment at the head of a shipped file up to the end of its first sentence."""
    lines = (shipped_folder() / f"{name}.yml").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith(EDITOR_LINE)]
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return re.split(r"(?<!w/)(?<!w/o)\. ", " ".join(line.lstrip("# ") for line in head))[0].rstrip(".")


def _show(arguments: argparse.Namespace) -> None:
    print(read_option_file(arguments.name).text(), end="")  # noqa: T201


def _copy(arguments: argparse.Namespace) -> None:
    name = arguments.name.removesuffix(".yml")
    if name not in shipped_names():
        raise OptionError(f"{name}: no shipped option file{suggest(name, shipped_names())}")
    shipped = shipped_folder().resolve()
    files = [file.resolve() for file in _needed(shipped / f"{name}.yml")]
    files += dict.fromkeys(_schema_of(file) for file in files)
    targets = {file: arguments.out / file.relative_to(shipped) for file in files}
    for file, target in targets.items():
        if target.exists() and target.read_bytes() != file.read_bytes():
            raise OptionError(f"{target}: there is another file of that name; rename it, or choose another --out")
    for file, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        print(target)  # noqa: T201


def _schema_of(file: Path) -> Path:
    """Return the schema that the first line of a shipped file names."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    return (file.parent / first.removeprefix(EDITOR_LINE)).resolve()


def _needed(path: Path) -> list[Path]:
    """Return a shipped file, those it extends and, of a suite, its bases and what they extend."""
    file = read_option_file(path, relative=BASES_OF_SUITE)
    rows = [row for kind in ("variants", "tested") for row in (file.content.get(kind) or {}).values()]
    bases = [block["base"] for block in (file.content, *rows) if block and block.get("base")]
    return list(dict.fromkeys([*file.files, *(needed for base in bases for needed in _needed(Path(base)))]))
