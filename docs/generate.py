"""Writes what the docs say of options, keys, events and exit codes from the code itself; --check only tells what is stale.

`commands.md`, `events.md`, `exit-codes.md`, `arawn-cli.1` and `schema/` are written whole, of `configuration.md` the part between
its markers. The examples of commands are those of `examples.toml`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from man_page import man_page
from typer import Context
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from arawn_cli.cli import app
from arawn_cli.config.meanings import field_meanings, meanings
from arawn_cli.config.schema import ConfigFile
from arawn_cli.config.template import EXAMPLES, shown
from arawn_cli.errors import EXIT_MEANINGS, ExitCode
from arawn_cli.events import Event
from arawn_cli.output.json_schema import EVENTS, PARTS, SCHEMAS
from arawn_cli.output.nagios import RETURN_CODES

DOCS = Path(__file__).parent
_START = "<!-- from here on written by make docs -->"
_END = "<!-- to here -->"
_ROOTS = "maintenance.roots."
_SPECIAL = (
    ("disk-check --fail-on", ExitCode.LEVEL_REACHED, "the level was reached; this outweighs 1"),
    ("scratch-cleanup, disk-check", ExitCode.LOCKED, "with `--unless-running` without a word, as nothing is wrong"),
    ("scratch-cleanup", ExitCode.REFUSED, "more would go than `max_sessions` or `max_percent` allow, or the clock went back"),
    ("doctor", ExitCode.PARTIAL, "at least one check is `fail`; 0 with warnings alone"),
    ("schedule status", ExitCode.PARTIAL, "a job is not installed as configured, or its last run failed"),
    ("schedule install, schedule remove", ExitCode.USAGE, "also: no rights, no such scheduler on this machine, or nobody to ask"),
    ("schedule install, schedule remove", ExitCode.REFUSED, "a file that somebody else wrote is left as it is"),
    ("config init", ExitCode.REFUSED, "the file is there, or another one is in effect that it would hide"),
)
_WORDS: dict[object, str] = {str: "string", int: "integer", bool: "true or false", type(None): "null", dict[str, int]: "object of counts"}


def outputs() -> dict[Path, str]:
    """Every file that is made of the code, with its text."""
    configuration = DOCS / "configuration.md"
    return {
        DOCS / "commands.md": _commands_page(),
        DOCS / "events.md": _events_page(),
        DOCS / "exit-codes.md": _exit_codes_page(),
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
    program = get_command(app.program())
    if not isinstance(program, TyperGroup):
        raise TypeError("the program has commands")
    return program


def examples() -> dict[str, dict[str, str]]:
    """What each command, by the words that call it, has as examples: lines as they are typed, and what each is for."""
    return tomllib.loads((DOCS / "examples.toml").read_text())


def _commands_page() -> str:
    program, shown = _program(), examples()
    program.epilog = _block(shown["arawn-cli"])
    for name, command in commands(program, "arawn-cli"):
        command.epilog = _block(shown[name])
        # Whole, where the list of commands would have its first words alone.
        command.short_help = inspect.cleandoc(command.help or "").partition("\n\n")[0]
    for group in program.commands.values():
        group.short_help = group.short_help or group.help
    context = Context(program, info_name="arawn-cli", **program.context_settings)
    text = get_docs_for_click(obj=program, ctx=context, name="arawn-cli", title="Commands")
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def _block(lines: dict[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(["**Examples**:", "", "```console", *(f"$ {line:<{width}}  # {text}" for line, text in lines.items()), "```"])


def _exit_codes_page() -> str:
    lines = [
        "# Exit codes",
        "",
        "Those from 64 on are of `sysexits.h`. Made by `make docs`.",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {int(code)} | {meaning} |" for code, meaning in EXIT_MEANINGS.items()),
        "",
        "What they mean to some commands:",
        "",
        "| command | code | meaning |",
        "|---|---|---|",
        *(f"| `{command}` | {int(code)} | {meaning} |" for command, code, meaning in _SPECIAL),
        "",
        "With `--format nagios` a disk check exits as a monitoring plugin, and with no other code:",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {level.value} |" for level, code in sorted(RETURN_CODES.items(), key=lambda each: each[1])),
    ]
    return "\n".join(lines) + "\n"


def _man_page() -> str:
    program = _program()
    defaults = {key: "" if key.startswith(_ROOTS) else _default(key).strip("`") for key in meanings()}
    return man_page(program, dict(commands(program, "arawn-cli")), examples(), defaults, _reasons())


def _reasons() -> dict[str, str]:
    """Why a session goes or stays, from the table of the README, which a test holds to be all of them."""
    section = (DOCS.parent / "README.md").read_text().split("\n## When a session is removed\n")[1].partition("\n## ")[0]
    return {name: text.replace("`", "") for name, text in re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)}


def _events_page() -> str:
    lines = [
        "# Events",
        "",
        "One JSON object a line; times are RFC 3339 in UTC, numbers whole and never below 0. Where bytes are of the configured `measure`,",
        "they are what `[maintenance.pressure] measure` says: apparent or allocated. Later versions may add keys, and values where a few",
        "are listed: readers should ignore those that they do not know. [schema/events.schema.json](schema/events.schema.json) is the",
        "same for programs. Made by `make docs`.",
        "",
        "## Every event",
        "",
        *_fields_table(Event),
    ]
    for event in EVENTS:
        kind = next(field.default for field in fields(event) if field.name == "type")
        lines += ["", f"## `{kind}`", "", inspect.cleandoc(event.__doc__ or ""), "", *_fields_table(event, without=Event)]
    for part in PARTS:
        lines += ["", f"## {part.__name__}", "", inspect.cleandoc(part.__doc__ or ""), "", *_fields_table(part)]
    return "\n".join(lines) + "\n"


def _fields_table(kind: type, without: type | None = None) -> list[str]:
    hints = get_type_hints(kind)
    common = set() if without is None else {field.name for field in fields(without)}
    told = field_meanings(kind)
    own = [field.name for field in fields(kind) if field.name not in common]
    rows = [f"| `{name}` | {_cell(_type_name(hints[name]))} | {_cell(told[name])} |" for name in own]
    return ["| key | type | meaning |", "|---|---|---|", *rows]


def _type_name(hint: object) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return " or ".join(_type_name(each) for each in arguments)
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{member.value}`" for member in hint)
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
