"""Options that several commands share, and their shell completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from arawn_cli.config.loader import Flags, named_roots
from arawn_cli.errors import ArawnCliError
from arawn_cli.fs.permissions import sudo_words
from arawn_cli.output.stdout import print_event

if TYPE_CHECKING:
    from arawn_cli.events import Event


def root_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of `[[maintenance.roots]]`, for completion."""
    from arawn_cli.cli.account import become_owner_of_configuration

    with suppress(ArawnCliError, OSError):
        flags = Flags(config=context.params.get("config"))
        become_owner_of_configuration(flags)
        names = named_roots(flags, os.environ)
        return [name for name in names if name.startswith(incomplete)]
    return []


def removed_sessions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the sessions in the trash, for completion."""
    from arawn_cli.arawn.root import opened_root
    from arawn_cli.cleanup.trash import list_trash_entries
    from arawn_cli.cleanup.trash_entry import TrashState
    from arawn_cli.cli.account import load_as_owner

    given = context.params
    with suppress(ArawnCliError, OSError):
        config = load_as_owner(Flags(config=given.get("config"), base_path=given.get("base_path"), root=given.get("root")))
        with opened_root(config.root, config.databases) as root:
            entries, _failures = list_trash_entries(root)
        restorable = {entry.session for entry in entries if entry.state is not TrashState.DELETING}
        return sorted(session for session in restorable if session.startswith(incomplete))
    return []


class Format(str, Enum):
    """The formats of results."""

    TABLE = "table"
    JSON = "json"
    NAGIOS = "nagios"
    NONE = "none"


class Sort(str, Enum):
    """The order of sessions in a table: the oldest or the largest first."""

    AGE = "age"
    SIZE = "size"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Options of output: the format, the order of a table, and the amount of logging."""

    format: Format = Format.TABLE
    sort: str = "age"
    verbose: bool = False
    quiet: bool = False

    def event_printer(self) -> Callable[[Event], None] | None:
        """Return the function that prints each event as it happens; None for a table."""
        match self.format:
            case Format.JSON:
                return print_event
            case Format.NAGIOS | Format.NONE:  # the Nagios line follows the run
                return lambda _event: None
            case Format.TABLE:
                return None


def _one_root(context: typer.Context, value: str | None) -> str | None:
    """Refuse --root together with --base-path; the later of both options finds the other."""
    if value is not None and any(context.params.get(name) is not None for name in ("base_path", "root")):
        raise typer.BadParameter("--root and --base-path exclude each other")
    return value


_FORMATS = "json (--json), none; auto: table on a terminal"

_CONFIG = typer.Option("-c", "--config", metavar="PATH", help="Configuration file to read.")
_BASE_PATH = typer.Option("--base-path", metavar="PATH", callback=_one_root, help="Arawn's data: the directory that has workstreams/.")
_ROOT = typer.Option(
    "--root", metavar="NAME", callback=_one_root, autocompletion=root_names, help="Name of a root in [[maintenance.roots]]."
)
_RELAY_URL = typer.Option("--relay-url", metavar="URL", help="Send events to this relay, not the configured one.")
_SCOPE = typer.Option("--user/--system", help="Timers of this account (default for root: --system).")
_DATABASE = typer.Option("--database", metavar="URL", help="Cloacina's database, without a password. Default: SQLite.")


def _flag(text: str, *names: str) -> tuple[object, bool]:
    return Annotated[bool, typer.Option(*names, help=text)], False


def _format(words: object, text: str, default: str | None) -> tuple[object, str | None]:
    return Annotated[words, typer.Option("--format", metavar="FORMAT", help=text)], default


_OPTIONS: dict[str, tuple[object, object]] = {
    "config": (Annotated[Path | None, _CONFIG], None),
    "base_path": (Annotated[str | None, _BASE_PATH], None),
    "root": (Annotated[str | None, _ROOT], None),
    "systemd": _flag("Use systemd timers; the default if systemd runs.", "--systemd"),
    "cron": _flag("Use cron; the default without systemd.", "--cron"),
    "cloacina": _flag("Use workflows of Cloacina, an optional extra.", "--cloacina"),
    "database": (Annotated[str | None, _DATABASE], None),
    "user": (Annotated[bool | None, _SCOPE], None),
    "format": _format(Literal["auto", "table", "json", "none"], f"table, {_FORMATS}.", "auto"),
    "check_format": _format(Literal["auto", "table", "json", "nagios", "none"], f"table, nagios, {_FORMATS}.", "auto"),
    "report_format": _format(Literal["table", "json"] | None, "table (default) or json (--json).", None),
    "json": _flag("The same as --format json.", "--json"),
    "relay_url": (Annotated[str | None, _RELAY_URL], None),
    "no_relay": _flag("Neither send nor queue events.", "--no-relay"),
    "verbose": _flag("Show all items and log more details.", "-v", "--verbose"),
    "quiet": _flag("Log only errors, and show no progress.", "-q", "--quiet"),
}
"""The type and the default of each shared option, by the name of its value."""

LOCATION = ("config", "base_path", "root")
TIMERS = ("systemd", "cron", "user")
SCHEDULER = ("systemd", "cron", "cloacina", "database", "user")
RELAY = ("relay_url", "no_relay")
LOGGING = ("verbose", "quiet")

_BEFORE_OWN = (*LOCATION, *SCHEDULER)

UnlessRunningOption = Annotated[bool, typer.Option("--unless-running", help="If another run is in progress, exit with 0, not 75.")]

DryRunOption = Annotated[bool | None, typer.Option("--dry-run/--no-dry-run", "-n", help="Show what would be done, and change nothing.")]


def _format_of(name: str, given: Mapping[str, Any]) -> Format:
    """Return the format that --format or --json asks for, and refuse both if they differ.

    `auto` is a table on a terminal, else JSON.
    """
    word = given[name]
    if given["json"]:
        if word not in ("json", _OPTIONS[name][1]):
            raise typer.BadParameter(f"--json and --format {word} exclude each other")
        return Format.JSON
    if word == "auto":
        return Format.TABLE if sys.stdout.isatty() else Format.JSON
    return Format(word or "table")


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these shared options.

    Their values are the fields of those of its parameters that are dataclasses: `Flags`, `Output`.
    Its other parameters are its own options, which the help lists behind those that locate the
    root.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        formats = [name for name in names if name.endswith("format")]
        shared_names = [each for name in names for each in ((name, "json") if name in formats else (name,))]
        declared = signature(function, eval_str=True).parameters.values()
        kinds: dict[str, Any] = {parameter.name: parameter.annotation for parameter in declared if is_dataclass(parameter.annotation)}
        own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in declared if parameter.name not in kinds]
        shared = [Parameter(name, Parameter.KEYWORD_ONLY, default=_OPTIONS[name][1], annotation=_OPTIONS[name][0]) for name in shared_names]
        before = [parameter for parameter in shared if parameter.name in _BEFORE_OWN]
        after = [parameter for parameter in shared if parameter.name not in _BEFORE_OWN]

        @wraps(function)
        def command(**values: Any) -> None:  # noqa: ANN401 - Typer has checked the types
            given = {name: values.pop(name, _OPTIONS[name][1]) for name in shared_names}
            given["sudo"] = sudo_words(os.environ)
            for name in formats:
                given["format"] = _format_of(name, given)
            for name, kind in kinds.items():
                values[name] = kind(**{each.name: given[each.name] for each in fields(kind) if each.name in given})
            function(**values)

        parameters = [*before, *own, *after]
        command.__signature__ = signature(function).replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate
