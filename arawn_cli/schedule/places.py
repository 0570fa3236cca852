"""Where the files of schedules are, and how words are spelled in them.

Every run looks for the state of the installed jobs, so this module imports little.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from arawn_cli.config.lookup import home_directory
from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.fs.files import read_small_file
from arawn_cli.names import escape

CRON_FILE = "arawn-cli"
STATE = "arawn-cli"
SYSTEM_STATE = Path("/var/lib")

_SYSTEM_UNITS = Path("/etc/systemd/system")
_CRON_DIRECTORY = Path("/etc/cron.d")
_MAX_BYTES = 1024 * 1024

_LINE_MAX = 998  # cron ignores longer lines
_UNQUOTED = re.compile(r"[A-Za-z0-9_./:@+=,%-]+", re.ASCII)


class Scheduler(StrEnum):
    """The program that starts the jobs."""

    SYSTEMD = "systemd"
    CRON = "cron"


class Scope(StrEnum):
    """Whether a schedule belongs to the system or to the current account."""

    SYSTEM = "system"
    USER = "user"


def suffixed(name: str, root_name: str | None) -> str:
    """Return a name of a unit, file or directory, with the name of the root at its end."""
    return name if root_name is None else f"{name}-{root_name}"


def unit_of(job: JobName, root_name: str | None) -> str:
    """Return the name of the units of a job, without `.service` or `.timer`."""
    return suffixed(f"arawn-{job}", root_name)


def units_directory(scope: Scope, environment: Mapping[str, str]) -> Path:
    """Return the directory of the units of a scope."""
    if scope is Scope.SYSTEM:
        return _SYSTEM_UNITS
    # A relative directory is ignored, as the XDG specification demands.
    named = environment.get("XDG_CONFIG_HOME", "")
    return (Path(named) if named.startswith("/") else Path(home_directory() or "/", ".config")) / "systemd" / "user"


def cron_file_of(root_name: str | None) -> Path:
    """Return the file in /etc/cron.d for a root."""
    return _CRON_DIRECTORY / suffixed(CRON_FILE, root_name)


def read_installed(path: Path) -> str | None:
    """Return the text of an installed file, or None if it does not exist.

    A symbolic link, which masks a unit, is described instead: it is never followed.

    Raises:
        OSError: the file exists and is not readable.
    """
    try:
        if path.is_symlink():
            return f"symbolic link to {os.readlink(path)}\n"
        return read_small_file(path, _MAX_BYTES).decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def created_state(scheduler: Scheduler, root_name: str | None, home: Path) -> Path:
    """Return the state directory of system services by systemd, or that in a home."""
    return SYSTEM_STATE / suffixed(STATE, root_name) if scheduler is Scheduler.SYSTEMD else home / ".local" / "state" / STATE


# ---- Words in these files


def refuse_unprintable(text: str, place: str) -> None:
    """Refuse control characters, such as newlines, and bytes that are not UTF-8.

    Raises:
        ConfigurationError: the text contains one.
    """
    if any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ConfigurationError(f"{escape(text)} cannot be written into {place}: rename it, without control characters, in UTF-8")


def cron_command(words: Sequence[str]) -> str:
    """Return a command for a crontab line, which ends at the first `%` that is not escaped.

    Raises:
        ConfigurationError: a crontab cannot hold a character of a word.
    """
    return " ".join(_cron_word(word) for word in words)


def cron_line(text: str) -> str:
    """Return a line of a crontab unchanged.

    Raises:
        ConfigurationError: cron would ignore it, because it is too long.
    """
    length = len(text.encode())
    if length > _LINE_MAX:
        raise ConfigurationError(f"a crontab line would have {length} bytes, and cron reads at most {_LINE_MAX}: use shorter paths")
    return text


def _cron_word(word: str) -> str:
    refuse_unprintable(word, "a crontab")
    # Each escaped `%` is outside the quotes: inside, the shell would keep the backslash.
    return "\\%".join(shlex.quote(part) if part else "" for part in word.split("%")) or "''"


def unit_word(text: object, home: str | None = None, prefix: str = "") -> str:
    """Return a word of a list or command in a unit, with `%` doubled (systemd.syntax(7)).

    A path below `home` is written with `%h`, which systemd replaces with the home directory.
    `prefix` has no special characters; it goes inside the quotes.

    Raises:
        ConfigurationError: a unit cannot hold a character of the text.
    """
    plain = str(text)
    refuse_unprintable(plain, "a unit file")
    if home is not None and plain.startswith(f"{home}/"):
        word = prefix + "%h" + plain[len(home) :].replace("%", "%%")
    else:
        word = prefix + plain.replace("%", "%%")
    if _UNQUOTED.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unit_command(words: Sequence[str], home: str | None = None) -> str:
    """Return a command for `ExecStart=`. A `:` in front turns off variables if a word has a `$`."""
    prefix = ":" if any("$" in word for word in words) else ""
    return prefix + " ".join(unit_word(word, home) for word in words)


def unit_line(text: object) -> str:
    """Return a value that extends to the end of its line, with `%` doubled.

    Raises:
        ConfigurationError: systemd would read something else.
    """
    plain = str(text)
    refuse_unprintable(plain, "a unit file")
    if plain.endswith("\\") or plain != plain.strip():
        raise ConfigurationError(f"{escape(plain)} cannot be written into a unit file: it ends with a backslash or a space")
    return plain.replace("%", "%%")
