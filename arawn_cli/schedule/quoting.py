"""Spell paths and commands as systemd units and crontabs need them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape

_UNQUOTED = re.compile(r"[A-Za-z0-9_./:@+=,%-]+", re.ASCII)
_CRON_LINE_MAX = 998  # cron ignores longer lines


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
    if length > _CRON_LINE_MAX:
        raise ConfigurationError(f"a crontab line would have {length} bytes, and cron reads at most {_CRON_LINE_MAX}: use shorter paths")
    return text


def refuse_unprintable(text: str, place: str) -> None:
    """Refuse control characters, such as newlines, and bytes that are not UTF-8.

    Raises:
        ConfigurationError: the text contains one.
    """
    if any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ConfigurationError(f"{escape(text)} cannot be written into {place}: rename it, without control characters, in UTF-8")


def _cron_word(word: str) -> str:
    refuse_unprintable(word, "a crontab")
    # Each escaped `%` is outside the quotes: inside, the shell would keep the backslash.
    return "\\%".join(shlex.quote(part) if part else "" for part in word.split("%")) or "''"
