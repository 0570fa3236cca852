"""Write the reference pages, the man page and the schemas from the program.

With --check, only report which are stale.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import Field, fields
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from man_page import man_page
from pydantic.fields import FieldInfo
from typer import Context
from typer.cli import get_docs_for_click
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from arawn_cli.cli import app
from arawn_cli.cli.help import examples as examples_of_commands
from arawn_cli.config.schema import ConfigFile, NamedRoot, fields_of
from arawn_cli.errors import ExitCode
from arawn_cli.events import Event
from arawn_cli.output.nagios import RETURN_CODES
from arawn_cli.output.schemas import EVENTS, PARTS, SCHEMAS, example, toml_value

DOCS = Path(__file__).parent
_START = "<!-- from here on written by make docs -->"
_END = "<!-- to here -->"
_ROOTS = "maintenance.roots."
_COMPLETIONS = {"bash": "arawn-cli", "zsh": "_arawn-cli", "fish": "arawn-cli.fish"}
"""The name of the completion file of each shell, as packages install it."""
_EXIT_CODES_OF_COMMANDS = (
    ("disk-check --fail-on", ExitCode.LEVEL_REACHED, "the level was reached; takes precedence over 1"),
    ("scratch-cleanup, disk-check", ExitCode.LOCKED, "with `--unless-running` 0, without a message"),
    ("scratch-cleanup", ExitCode.REFUSED, "`max_sessions` or `max_percent` would be exceeded, or the clock cannot be trusted"),
    ("doctor", ExitCode.PARTIAL, "at least one check is `fail`; 0 with warnings alone"),
    ("schedule status", ExitCode.PARTIAL, "a job is not installed as configured, or its last run failed"),
    ("schedule install, schedule remove", ExitCode.USAGE, "also: no permission, no such scheduler, or no terminal to ask on"),
    ("schedule install, schedule remove", ExitCode.REFUSED, "a file of somebody else is in the way; it is left unchanged"),
    ("config init", ExitCode.REFUSED, "the file exists, or would replace another one that is in effect"),
)


def outputs() -> dict[Path, str]:
    """Return the text of every generated file."""
    program = get_command(app.program())
    if not isinstance(program, TyperGroup):
        raise TypeError("the program has commands")
    commands = dict(_commands(program, "arawn-cli"))
    examples = examples_of_commands()
    configuration = DOCS / "configuration.md"
    before, _, rest = configuration.read_text().partition(_START)
    # The man page comes first: the page of commands changes their help.
    return {
        DOCS / "arawn-cli.1": man_page(program, commands, examples, _reasons()),
        DOCS / "commands.md": _commands_page(program, commands, examples),
        DOCS / "events.md": _events_page(),
        DOCS / "exit-codes.md": _exit_codes_page(),
        configuration: f"{before}{_START}\n\n{_keys_tables()}\n\n{_END}{rest.partition(_END)[2]}",
        **{DOCS.parent / "contrib/completions" / name: _completion(shell) for shell, name in _COMPLETIONS.items()},
        **{DOCS / "schema" / f"{name}.schema.json": json.dumps(make(), indent=2) + "\n" for name, make in SCHEMAS.items()},
    }


def _completion(shell: str) -> str:
    environment = {**os.environ, "_ARAWN_CLI_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-c", "import sys; sys.argv = ['arawn-cli']; from arawn_cli.__main__ import main; main()"]
    return subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout.strip() + "\n"


def _commands(group: TyperGroup, name: str) -> Iterator[tuple[str, TyperCommand]]:
    """Yield every command, with the words that call it."""
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands(command, f"{name} {word}")
        elif isinstance(command, TyperCommand):
            yield f"{name} {word}", command


def _commands_page(program: TyperGroup, commands: dict[str, TyperCommand], examples: dict[str, dict[str, str]]) -> str:
    for name, command in {"arawn-cli": program, **commands}.items():
        width = max(map(len, examples[name]))
        lines = [f"$ {line:<{width}}  # {text}" for line, text in examples[name].items()]
        command.epilog = "\n".join(["**Examples**:", "", "```console", *lines, "```"])
        # Without this, the list of commands would have only the first words of each help.
        command.short_help = inspect.cleandoc(command.help or "").partition("\n\n")[0]
    for group in program.commands.values():
        group.short_help = group.short_help or group.help
    context = Context(program, info_name="arawn-cli", **program.context_settings)
    text = get_docs_for_click(obj=program, ctx=context, name="arawn-cli", title="Commands")
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def _reasons() -> dict[str, str]:
    """Return each reason of the page of reasons, which a test checks, with meaning and remedy."""
    section = (DOCS / "reasons.md").read_text().split("\n## The reasons\n")[1].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section, re.MULTILINE)
    return {name: f"{meaning}. What helps: {remedy}.".replace("`", "") for name, meaning, remedy in rows}


def _exit_codes_page() -> str:
    codes = _table(("code", "meaning"), ((code.value, code.meaning) for code in ExitCode))
    of_commands = _table(("command", "code", "meaning"), ((f"`{name}`", int(code), text) for name, code, text in _EXIT_CODES_OF_COMMANDS))
    nagios = _table(("code", "meaning"), sorted((code, level.value) for level, code in RETURN_CODES.items()))
    return f"""# Exit codes

Codes from 64 on are those of `sysexits.h`. Written by `make docs`.

{codes}

For some commands they mean in particular:

{of_commands}

With `--format nagios` a disk check exits with the codes of a monitoring plugin, and with no other:

{nagios}
"""


def _events_page() -> str:
    parts = [
        "# Events",
        "One JSON object per line. Times are RFC 3339 in UTC. Numbers are at least 0, and integers except for `usage_mb`,\n"
        "`limit_mb` and `usage_percent`.\n"
        "Bytes by the configured `measure` are apparent or allocated sizes, as `[maintenance.pressure] measure` says. Later versions may\n"
        "add keys and values: readers should ignore unknown ones. [schema/events.schema.json](schema/events.schema.json) has the same for\n"
        "programs. Written by `make docs`.",
        "## Every event",
        _event_table(Event, ()),
    ]
    common = [field.name for field in fields(Event)]
    for event in EVENTS:
        kind = next(field.default for field in fields(event) if field.name == "type")
        parts += [f"## `{kind}`", inspect.cleandoc(event.__doc__ or ""), _event_table(event, common)]
    for part in PARTS:
        parts += [f"## {part.__name__}", inspect.cleandoc(part.__doc__ or ""), _event_table(part, ())]
    return "\n\n".join(parts) + "\n"


def _event_table(kind: type, without: Iterable[str]) -> str:
    hints = get_type_hints(kind)
    own: list[Field[object]] = [field for field in fields(kind) if field.name not in without]
    return _table(
        ("key", "type", "meaning"),
        ((f"`{field.name}`", _type_name(hints[field.name]), field.metadata["description"]) for field in own),
    )


def _type_name(hint: object) -> str:
    arguments = get_args(hint)
    if isinstance(hint, UnionType):
        return " or ".join(map(_type_name, arguments))
    if arguments:
        return "object of counts" if get_origin(hint) is dict else f"list of {_type_name(arguments[0])}"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{member.value}`" for member in hint)
    names: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _keys_tables() -> str:
    def default(field: FieldInfo) -> str:
        return "" if field.default is None else f"`{toml_value(field.default)}`"

    keys = ((key, field) for key, field in fields_of(ConfigFile) if field.description and not key.startswith(_ROOTS))
    general = ((f"`{key}`", default(field), field.description) for key, field in keys)
    of_root = ((f"`{key}`", f"`{toml_value(example(field))}`", field.description) for key, field in fields_of(NamedRoot))
    return "\n\n".join([_table(("key", "default", "meaning"), general), _table(("key of a root", "example", "meaning"), of_root)])


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in cells)])


def main() -> None:
    """Write the stale files, or with --check list them and exit with 1."""
    made = outputs()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"stale: {path.relative_to(DOCS.parent)}; run make docs" for path in stale) or None)
    for path in stale:
        path.write_text(made[path])


if __name__ == "__main__":
    main()
