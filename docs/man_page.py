"""The man page, from the commands, keys and exit codes of the code, and the examples beside it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from arawn_cli import __version__
from arawn_cli.config.meanings import meanings
from arawn_cli.errors import EXIT_MEANINGS

Examples = Mapping[str, Mapping[str, str]]

_ROOTS = "maintenance.roots."

FILES = {
    "~/.config/arawn/config.toml": "this account's configuration",
    "/etc/arawn/config.toml": "the machine's, read where this account has none",
    "~/.local/state/arawn-cli/state.db": "levels, history and events that wait for the relay",
    "/var/lib/arawn-cli/state.db": "the same, of the machine's systemd timers",
    "/etc/systemd/system/arawn-*": "the machine's timers and services",
    "~/.config/systemd/user/arawn-*": "this account's own, of schedule install --user",
    "/etc/cron.d/arawn-cli": "the machine's cron lines",
}

ENVIRONMENT = {
    "ARAWN_CONFIG": "configuration file, where --config names none",
    "ARAWN_CONFIG_DIR": "folder of config.toml, where neither does",
    "ARAWN_BASE_PATH": "Arawn's root, where neither --base-path nor --root names one",
    "ARAWN_RELAY_TOKEN": "token for the relay, where no credential relay-token is there",
    "ARAWN_CLOACINA_URL": "Cloacina's database, where neither --database nor a credential cloacina-url names one",
    "STATE_DIRECTORY": "folder of state.db, where maintenance.state_dir is not set",
    "CREDENTIALS_DIRECTORY": "folder of credentials, which systemd sets",
}


SEE_ALSO = ("systemd.timer(5)", "systemd.time(7)", "crontab(5)", "tmpfiles.d(5)")


def man_page(
    program: TyperGroup,
    commands: Mapping[str, TyperCommand],
    examples: Examples,
    defaults: Mapping[str, str],
    reasons: Mapping[str, str],
) -> str:
    """The page as roff; `commands` by the words that call each, `defaults` by key, `reasons` why a session goes or stays."""
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
        ".SH OPTIONS",
        *_entries(dict(_rows(program))),
        *_entries({"-h, --help": "Show this message and exit. Every command has it."}),
        *_examples(examples["arawn-cli"]),
        ".SH COMMANDS",
    ]
    for name, command in commands.items():
        lines += [f'.SS "{_roff(name)}"', _roff(inspect.cleandoc(command.help or "")), *_entries(dict(_rows(command)))]
        lines += _examples(examples[name])
    lines += [".SH REASONS", "Why scratch\\-cleanup removes a session, or leaves it:", *_entries(reasons)]
    lines += [".SH CONFIGURATION", "The file is TOML. Each key, its meaning and its default:"]
    lines += _entries({key: _with_default(text, defaults[key]) for key, text in meanings().items() if not key.startswith(_ROOTS)})
    lines += [".P", _roff("Keys of each of [[maintenance.roots]]:")]
    lines += _entries({key.removeprefix(_ROOTS): text for key, text in meanings().items() if key.startswith(_ROOTS)})
    lines += [".SH EXIT STATUS", *_entries({str(int(code)): meaning for code, meaning in EXIT_MEANINGS.items()})]
    lines += [".P", _roff("disk-check --format nagios: 0 ok, 1 warning, 2 critical, 3 unknown.")]
    lines += [".SH ENVIRONMENT", *_entries(ENVIRONMENT), ".SH FILES", *_entries(FILES)]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {name} ({section}" for name, section in (each.split("(") for each in SEE_ALSO))]
    return "\n".join(lines) + "\n"


def _rows(command: TyperCommand | TyperGroup) -> Iterator[tuple[str, str]]:
    """Each argument and option as it is typed, and its help with its default."""
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            yield parameter.metavar or (parameter.name or "").upper(), parameter.help or ""
        elif isinstance(parameter, TyperOption):
            names = " / ".join([", ".join(parameter.opts), *parameter.secondary_opts])
            given = "" if parameter.is_flag or parameter.default is None else str(getattr(parameter.default, "value", parameter.default))
            yield names + _value_of(parameter), _with_default(parameter.help or "", given)


def _value_of(option: TyperOption) -> str:
    if option.is_flag:
        return ""
    members = getattr(option.type_descriptor.annotation, "__members__", {})
    return f" {option.metavar or '|'.join(name.lower() for name in members) or 'VALUE'}"


def _with_default(text: str, default: str) -> str:
    return f"{text.rstrip('.')} (default: {default})" if default else text


def _entries(rows: Mapping[str, str]) -> Iterator[str]:
    for name, text in rows.items():
        yield from (".TP", f".B {_roff(name)}", _roff(text))


def _examples(lines: Mapping[str, str]) -> Iterator[str]:
    yield from (".P", "Examples:")
    yield from _entries(lines)


def _roff(text: str) -> str:
    """Text that roff takes as it is: hyphens that can be copied, and no line that it reads as a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("…", "...")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())
