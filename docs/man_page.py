"""Write the man page from the commands, keys and exit codes of the program."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from arawn_cli import __version__
from arawn_cli.config.schema import ConfigFile, fields_of
from arawn_cli.errors import ExitCode
from arawn_cli.output.schemas import toml_value

_ROOTS = "maintenance.roots."

ENVIRONMENT = {
    "ARAWN_CONFIG": "configuration file, unless --config names one",
    "ARAWN_CONFIG_DIR": "folder of config.toml, unless a file is named",
    "ARAWN_DATA_DIR": "data directory of Arawn's main branch, with its arawn.toml",
    "ARAWN_BASE_PATH": "Arawn's root, unless --base-path or --root names one",
    "ARAWN_RELAY_TOKEN": "token for the relay, unless there is a credential relay-token",
    "ARAWN_CLOACINA_URL": "Cloacina's database, unless --database or a credential cloacina-url names one",
    "ARAWN_CLEANUP_REQUEST": "file that disk-check changes to start the unit of the cleanup (cleanup_on), instead of starting it itself",
    "STATE_DIRECTORY": "folder of state.db, unless maintenance.state_dir is set",
    "CREDENTIALS_DIRECTORY": "folder of credentials, which systemd sets",
}

FILES = {
    "~/.config/arawn/config.toml": "configuration of the account",
    "~/.arawn/arawn.toml": "the same, of Arawn's main branch",
    "/etc/arawn/config.toml": "configuration of the machine, for accounts without their own",
    "~/.local/state/arawn-cli/state.db": "levels, history and events that are queued for the relay",
    "/var/lib/arawn-cli/state.db": "the same for system timers",
    "/etc/systemd/system/arawn-*": "system timers and services",
    "~/.config/systemd/user/arawn-*": "timers and services of schedule install --user",
    "/etc/cron.d/arawn-cli": "cron lines of the machine",
}


def man_page(
    program: TyperGroup, commands: Mapping[str, TyperCommand], examples: Mapping[str, Mapping[str, str]], reasons: Mapping[str, str]
) -> str:
    """Return the page as roff.

    `commands` and `examples` are by the words that call each command.
    """
    keys = {key: field for key, field in fields_of(ConfigFile) if field.description}
    general = {key: field for key, field in keys.items() if not key.startswith(_ROOTS)}
    defaults = {key: "" if field.default is None else toml_value(field.default) for key, field in general.items()}
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
        *_entries(dict(_parameters(program))),
        *_entries({"-h, --help": "Show this message and exit. Every command has it."}),
        *(".P", "Examples:", *_entries(examples["arawn-cli"])),
        ".SH COMMANDS",
    ]
    for name, command in commands.items():
        lines += [f'.SS "{_roff(name)}"', _roff(inspect.cleandoc(command.help or "")), *_entries(dict(_parameters(command)))]
        lines += [".P", "Examples:", *_entries(examples[name])]
    lines += [".SH REASONS", "Why scratch\\-cleanup removes or keeps a session:", *_entries(reasons)]
    lines += [".SH CONFIGURATION", "The file is TOML. Each key, its meaning and its default:"]
    lines += _entries({key: _with_default(field.description or "", defaults[key]) for key, field in general.items()})
    lines += [".P", _roff("Keys of each of [[maintenance.roots]]:")]
    lines += _entries({key.removeprefix(_ROOTS): field.description or "" for key, field in keys.items() if key.startswith(_ROOTS)})
    lines += [".SH EXIT STATUS", *_entries({str(code.value): code.meaning for code in ExitCode})]
    lines += [".P", _roff("disk-check --format nagios: 0 ok, 1 warning, 2 critical, 3 unknown.")]
    lines += [".SH ENVIRONMENT", *_entries(ENVIRONMENT), ".SH FILES", *_entries(FILES)]
    lines += [".SH SEE ALSO", ".BR systemd.timer (5),\n.BR systemd.time (7),\n.BR crontab (5),\n.BR tmpfiles.d (5)"]
    return "\n".join(lines) + "\n"


def _parameters(command: TyperCommand | TyperGroup) -> Iterator[tuple[str, str]]:
    """Yield each argument and option as it is typed, and its help with its default."""
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            yield parameter.metavar or (parameter.name or "").upper(), parameter.help or ""
        elif isinstance(parameter, TyperOption):
            names = " / ".join([", ".join(parameter.opts), *parameter.secondary_opts])
            if parameter.is_flag:
                yield names, parameter.help or ""
                continue
            members = getattr(parameter.type_descriptor.annotation, "__members__", {})
            value = parameter.metavar or "|".join(name.lower() for name in members) or "VALUE"
            default = getattr(parameter.default, "value", parameter.default)
            yield f"{names} {value}", _with_default(parameter.help or "", "" if default is None else str(default))


def _with_default(text: str, default: str) -> str:
    return f"{text.rstrip('.')} (default: {default})" if default else text


def _entries(rows: Mapping[str, str]) -> Iterator[str]:
    for name, text in rows.items():
        yield from (".TP", f".B {_roff(name)}", _roff(text))


def _roff(text: str) -> str:
    """Escape text for roff: hyphens that can be copied, and no line that is taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("…", "...")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())
