"""Options that several commands share, and their shell completion."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


def root_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of `[[maintenance.roots]]`, for completion."""
    from arawn_cli.config.loader import Flags, named_roots
    from arawn_cli.errors import ArawnCliError

    with suppress(ArawnCliError, OSError):
        names = named_roots(Flags(config=context.params.get("config")), os.environ)
        return [name for name in names if name.startswith(incomplete)]
    return []


def removed_sessions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the ids of the sessions in the trash, for completion."""
    from arawn_cli.arawn.root import opened_root
    from arawn_cli.cleanup.trash import list_trash_entries
    from arawn_cli.cleanup.trash_entry import TrashState
    from arawn_cli.config.loader import Flags, load
    from arawn_cli.errors import ArawnCliError

    given = context.params
    with suppress(ArawnCliError, OSError):
        config = load(Flags(config=given.get("config"), base_path=given.get("base_path"), root=given.get("root")), os.environ)
        with opened_root(config.root, config.databases) as root:
            entries, _failures = list_trash_entries(root)
        restorable = {entry.session for entry in entries if entry.state is not TrashState.DELETING}
        return sorted(session for session in restorable if session.startswith(incomplete))
    return []


class Format(str, Enum):
    """The formats of results."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What the command line says about output: the format, and how much is logged."""

    format: str
    verbose: bool = False
    quiet: bool = False

    def resolved(self) -> str:
        """Return the format; `auto` is `table` on a terminal, else `json`."""
        if self.format != "auto":
            return self.format
        return "table" if sys.stdout.isatty() else "json"


def _one_root(context: typer.Context, value: str | None) -> str | None:
    """Refuse --root together with --base-path; the later of both options finds the other."""
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

VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="List kept sessions too, and log more.")]

QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Log errors only, and show no progress.")]

RelayUrlOption = Annotated[
    str | None, typer.Option("--relay-url", metavar="URL", help="Send events to this relay instead of the configured one.")
]

NoRelayOption = Annotated[bool, typer.Option("--no-relay", help="Do not send events to a relay, or save them to be sent later.")]

UnlessRunningOption = Annotated[bool, typer.Option("--unless-running", help="If another run is in progress, exit with 0 instead of 75.")]

FORMATS = "table: for people. json: one event per line. none: print nothing. auto: table on a terminal, else json."

FormatOption = Annotated[Format, typer.Option("--format", help=FORMATS)]
