"""The options that several commands take, each defined once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from arawn_cli.commands.completion import root_names


class Format(str, Enum):
    """How results are printed."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    NONE = "none"


class CheckFormat(str, Enum):
    """How the results of a disk check are printed."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    NAGIOS = "nagios"
    NONE = "none"


class FailOn(str, Enum):
    """The level from which on disk-check exits with 3."""

    WARNING = "warning"
    CRITICAL = "critical"


def _one_root(context: typer.Context, value: str | None) -> str | None:
    """Refuses a second way to say the root; whichever of both options comes last finds the other."""
    if value is not None and any(context.params.get(name) is not None for name in ("base_path", "root")):
        raise typer.BadParameter("--root and --base-path exclude each other")
    return value


ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="PATH", help="Configuration file to read.")]
BasePathOption = Annotated[
    str | None,
    typer.Option("--base-path", metavar="PATH", callback=_one_root, help="Arawn's root, the folder that holds workstreams/."),
]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root",
        metavar="NAME",
        callback=_one_root,
        autocompletion=root_names,
        help="A root named in maintenance.roots, instead of the main root.",
    ),
]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Log and list more.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Log errors only, and show no progress.")]
RelayUrlOption = Annotated[
    str | None, typer.Option("--relay-url", metavar="URL", help="Relay that gets the events, instead of the configured one.")
]
NoRelayOption = Annotated[bool, typer.Option("--no-relay", help="Send nothing to a relay, and keep nothing to send later.")]
UnlessRunningOption = Annotated[
    bool, typer.Option("--unless-running", help="For timers: if another run is at work, exit with 75 without a message.")
]
_FORMATS = "table: for people. json: one event a line. none: print nothing, log only. auto: table on a terminal, else json."
FormatOption = Annotated[Format, typer.Option("--format", help=_FORMATS)]
CheckFormatOption = Annotated[
    CheckFormat,
    typer.Option("--format", help=f"{_FORMATS} nagios: one status line; exit 0 ok, 1 warning, 2 critical, 3 unknown."),
]
