"""The `config` commands: show, init and schema."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from arawn_cli import names, timestamps
from arawn_cli.cli.account import become_account_of_directory, load_as_owner
from arawn_cli.cli.options import LOCATION, LOGGING, Output, with_options
from arawn_cli.cli.terminal import configure_logging, question
from arawn_cli.command_events import EffectiveSetting
from arawn_cli.config.loader import Flags, Setting, settings_of
from arawn_cli.config.lookup import SYSTEM_FILE, default_config_path, find_config
from arawn_cli.errors import ConfigurationError, RefusedError
from arawn_cli.events import Event
from arawn_cli.fs.files import AtomicFile
from arawn_cli.output.schemas import SCHEMAS, template

_STANDARD_OUTPUT = Path("-")

app = typer.Typer(no_args_is_help=True, help="Show, write or describe the configuration.")


class SchemaOf(str, Enum):
    """The values of KIND."""

    CONFIG = "config"
    EVENTS = "events"
    PLAN = "plan"


@app.command("show")
@with_options(*LOCATION, "format", *LOGGING)
def config_show(flags: Flags, output: Output) -> None:
    """Show every value in effect and its source: an option, the environment, the file or a default.

    Secrets are left out.
    """
    configure_logging(output)
    loaded = load_as_owner(flags)
    settings = settings_of(loaded, os.environ)
    if (show := output.event_printer()) is not None:
        show_settings(settings, loaded.root_name, show)
    else:
        print_settings(settings, Console(highlight=False, soft_wrap=True))


@app.command("init")
@with_options("quiet")
def config_init(
    output: Output,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="File to write, or - to print. Default: the file of your account.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file without asking, and keep a backup.")] = False,
) -> None:
    """Write a configuration file that explains every key, with all keys commented out."""
    configure_logging(output)
    write_config(file, question(), overwrite=force)


def write_config(file: Path | None, ask: Callable[[str], bool] | None, *, overwrite: bool) -> None:
    """Write the commented configuration file, or print it if `file` is `-`.

    `ask` asks a yes-or-no question; it is None without a terminal.

    Raises:
        RefusedError: a file would be replaced or hidden, and nobody agreed; several accounts decide
            about it.
        ConfigurationError: the file cannot be written.
    """
    if file == _STANDARD_OUTPUT:
        sys.stdout.write(template())
        return
    path = (default_config_path(os.environ) if file is None else file).absolute()
    become_account_of_directory(path.parent)
    if not overwrite:
        _require_consent(path, find_config(None, os.environ, SYSTEM_FILE) if file is None else None, ask)
    if file is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    output = AtomicFile(path, "the configuration")
    backup = _back_up(path)
    output.write(template())
    kept = "" if backup is None else f"; the previous file is {names.escape(str(backup))}"
    sys.stdout.write(f"wrote {names.escape(str(path))}: every key with its default, commented out{kept}\n")
    if file is None and os.geteuid() == 0 and "SUDO_UID" in os.environ:
        sys.stdout.write("This file is root's. An Arawn server of another account reads its own: sudo -u ACCOUNT arawn-cli config init\n")


def _back_up(file: Path) -> Path | None:
    """Copy a file that will be replaced, and return the copy; None without a file.

    Raises:
        ConfigurationError: no backup can be made.
    """
    if not os.path.lexists(file):
        return None
    numbers = ("", *(f".{number}" for number in range(1, 1000)))
    backup = next((path for number in numbers if not os.path.lexists(path := Path(f"{file}.bak{number}"))), None)
    if backup is None:
        raise ConfigurationError(f"cannot keep a backup of {file}: there are too many already; remove some of {file}.bak*")
    try:
        _copy(file, backup)
    except OSError as error:
        raise ConfigurationError(f"cannot keep a backup of {file} as {backup}: {error.strerror}") from error
    return backup


def _copy(file: Path, backup: Path) -> None:
    """Copy a file with its mode and, as root, its owner; neither name may be a link.

    Raises:
        OSError: that failed.
    """
    source = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(source, "rb") as old:
        status = os.fstat(source)
        with open(os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as new:
            shutil.copyfileobj(old, new)
            if os.geteuid() == 0:
                os.fchown(new.fileno(), status.st_uid, status.st_gid)
            os.fchmod(new.fileno(), status.st_mode & 0o777)


def _require_consent(path: Path, in_effect: Path | None, ask: Callable[[str], bool] | None) -> None:
    """Ask before a file is replaced, or before a new one hides the one that is in effect."""
    if os.path.lexists(path):
        problem, consequence = f"{path} exists", "and Arawn may read it too. Replace it, and keep a backup?"
    elif in_effect not in (None, path):
        problem, consequence = (
            f"{in_effect} is in effect only while {path} does not exist",
            "so it would not be read any more. Write it?",
        )
    else:
        return
    if ask is None:
        raise RefusedError(f"{problem}: not changed; use --force to write it, or `arawn-cli config init -` to print the text")
    if not ask(f"{problem}, {consequence}"):
        raise RefusedError(f"{problem}: not changed")


@app.command("schema")
@with_options("quiet")
def config_schema(
    output: Output,
    of: Annotated[SchemaOf, typer.Argument(metavar="KIND", help="config, events or plan.")] = SchemaOf.CONFIG,
) -> None:
    """Print the JSON Schema of the configuration file, events or plans."""
    configure_logging(output)
    sys.stdout.write(json.dumps(SCHEMAS[of.value](), indent=2) + "\n")


def print_settings(settings: Iterable[Setting], console: Console) -> None:
    """Print one line for each value, with its source dimmed."""
    for setting in settings:
        value = json.dumps(setting.value, ensure_ascii=False)
        text = Text.assemble(names.escape(f"{setting.key} = {value}"), (f" ({names.escape(setting.source)})", "dim"))
        console.print(text, soft_wrap=True)


def show_settings(settings: Iterable[Setting], root: str | None, show: Callable[[Event], None]) -> None:
    """Show one event for each value. `root` is the name of their root."""
    timestamp, host = timestamps.render(time.time_ns()), socket.gethostname()
    for each in settings:
        show(EffectiveSetting(timestamp=timestamp, host=host, root=root, dry_run=False, key=each.key, value=each.value, source=each.source))
