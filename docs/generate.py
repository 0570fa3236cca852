"""Writes what the docs say of options, keys, events and exit codes from the code itself; --check only tells what is stale.

`commands.md`, `events.md`, `arawn-cli.1` and `schema/` are written whole, of `configuration.md` the part between its markers.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from enum import EnumMeta
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from typer import Context
from typer.cli import get_docs_for_click
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from arawn_cli import __version__, cli
from arawn_cli.config_tables import ConfigFile
from arawn_cli.errors import EXIT_MEANINGS
from arawn_cli.events import Event, FailureReport, Filesystem, ForeignEntry
from arawn_cli.reference.meanings import meanings
from arawn_cli.reference.schemas import EVENTS, SCHEMAS
from arawn_cli.reference.template import EXAMPLES, shown

DOCS = Path(__file__).parent
_START = "<!-- from here on written by make docs -->"
_END = "<!-- to here -->"
_ROOTS = "maintenance.roots."
_WORDS: dict[object, str] = {str: "string", int: "integer", bool: "true or false", type(None): "null", dict[str, int]: "object of counts"}


def outputs() -> dict[Path, str]:
    """Every file that is made of the code, with its text."""
    configuration = DOCS / "configuration.md"
    return {
        DOCS / "commands.md": _commands_page(),
        DOCS / "events.md": _events_page(),
        DOCS / "arawn-cli.1": _man_page(),
        configuration: _between_markers(configuration.read_text(), _keys_table()),
        **{DOCS / "schema" / f"{name}.schema.json": json.dumps(make(), indent=2) + "\n" for name, make in SCHEMAS.items()},
    }


def commands(group: TyperGroup, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """Every command below a group, by the words that call it."""
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name} {word}")
        elif isinstance(command, TyperCommand):
            yield f"{name} {word}", command


def _program() -> TyperGroup:
    program = get_command(cli.program())
    if not isinstance(program, TyperGroup):
        raise TypeError("the program has commands")
    return program


def _rows(command: TyperCommand) -> Iterator[tuple[str, str]]:
    """Each argument and option as it is typed, and its help."""
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            yield parameter.metavar or f"[{parameter.name}]".upper(), parameter.help or ""
        elif isinstance(parameter, TyperOption):
            names = "/".join([", ".join(parameter.opts), *parameter.secondary_opts])
            yield names + _value_of(parameter), parameter.help or ""


def _value_of(option: TyperOption) -> str:
    if option.is_flag:
        return ""
    kind = option.type_descriptor.annotation
    choices = "|".join(name.lower() for name in kind.__members__) if isinstance(kind, EnumMeta) else None
    return f" {option.metavar or choices or 'VALUE'}"


def _commands_page() -> str:
    program = _program()
    text = get_docs_for_click(obj=program, ctx=Context(program, info_name="arawn-cli"), name="arawn-cli", title="Commands")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _events_page() -> str:
    lines = [
        "# Events",
        "",
        "One JSON object a line; times are RFC 3339 in UTC, sizes whole bytes. Later versions may add keys: readers pass over those that",
        "they do not know. [schema/events.schema.json](schema/events.schema.json) has it for programs. Made by `make docs`.",
        "",
        "## Every event",
        "",
        *_fields_table(Event),
    ]
    for event in EVENTS:
        kind = next(field.default for field in fields(event) if field.name == "type")
        lines += ["", f"## `{kind}`", "", inspect.cleandoc(event.__doc__ or ""), "", *_fields_table(event, without=Event)]
    for part in (Filesystem, FailureReport, ForeignEntry):
        lines += ["", f"## {part.__name__}", "", inspect.cleandoc(part.__doc__ or ""), "", *_fields_table(part)]
    return "\n".join(lines) + "\n"


def _fields_table(kind: type, without: type | None = None) -> list[str]:
    hints = get_type_hints(kind)
    common = set() if without is None else {field.name for field in fields(without)}
    rows = [f"| `{field.name}` | {_cell(_type_name(hints[field.name]))} |" for field in fields(kind) if field.name not in common]
    return ["| key | value |", "|---|---|", *rows]


def _type_name(hint: object) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(_type_name(each) for each in arguments)
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if isinstance(hint, EnumMeta):
        return ", ".join(f"`{name.lower()}`" for name in hint.__members__)
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _keys_table() -> str:
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {_default(key)} | {_cell(text)} |" for key, text in meanings().items() if not key.startswith(_ROOTS)]
    lines += ["", "| key of a root | example | meaning |", "|---|---|---|"]
    own = {key.removeprefix(_ROOTS): text for key, text in meanings().items() if key.startswith(_ROOTS)}
    lines += [f"| `{key}` | `{_cell(shown(EXAMPLES[_ROOTS + key]))}` | {_cell(text)} |" for key, text in own.items()]
    return "\n".join(lines)


def _default(key: str) -> str:
    value: object = ConfigFile()
    for name in key.split("."):
        value = getattr(value, name)
    return "" if value is None else f"`{shown(value)}`"


def _between_markers(text: str, made: str) -> str:
    before, _, rest = text.partition(_START)
    return f"{before}{_START}\n\n{made}\n\n{_END}{rest.partition(_END)[2]}"


def _man_page() -> str:
    program = _program()
    lines = [
        f'.TH ARAWN-CLI 1 "" "arawn-cli {__version__}" "User Commands"',
        ".SH NAME",
        "arawn-cli \\- scratch cleanup and disk-pressure alerts for an Arawn server",
        ".SH SYNOPSIS",
        ".B arawn-cli",
        ".I COMMAND",
        "[OPTIONS]",
        ".SH DESCRIPTION",
        _roff(inspect.cleandoc(program.help or "")),
        ".SH COMMANDS",
    ]
    for name, command in commands(program, "arawn-cli"):
        lines += [f'.SS "{_roff(name)}"', _roff(inspect.cleandoc(command.help or ""))]
        for option, text in _rows(command):
            lines += [".TP", f".B {_roff(option)}", _roff(text)]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_MEANINGS.items():
        lines += [".TP", f".B {int(code)}", _roff(meaning)]
    lines += [".SH CONFIGURATION", "The file is TOML; each key with its default:"]
    for key, text in meanings().items():
        if not key.startswith(_ROOTS):
            lines += [".TP", f".B {_roff(key)}", _roff(text)]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text that roff takes as it is: hyphens that can be copied, and no line that it reads as a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    """Writes what is stale, or with --check tells of it and ends with 1."""
    stale = [path for path, text in outputs().items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"stale: {path.relative_to(DOCS.parent)}; run make docs" for path in stale) or None)
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(outputs()[path])


if __name__ == "__main__":
    main()
