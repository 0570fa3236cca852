"""Words as systemd units and crontabs must spell them: what a path holds is data and never syntax."""

from __future__ import annotations

import re
import shlex

from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=,%-]+", re.ASCII)
_LINE_MAX = 998  # cron drops what is longer


def unit_word(text: str, home: str | None = None) -> str:
    """A word of a unit's list or command (systemd.syntax(7)), with specifiers doubled.

    `home` is the home directory that `%h` stands for; what lies in it is written so.

    Raises:
        ConfigurationError: the text has characters that no unit can hold.
    """
    refuse_unprintable(text, "a unit file")
    inside = home is not None and text.startswith(f"{home}/")
    rest = text[len(home) :] if inside and home is not None else text
    word = ("%h" if inside else "") + rest.replace("%", "%%")
    if _PLAIN.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unit_command(words: tuple[str, ...], home: str | None = None) -> str:
    """A command for `ExecStart=`; one with a `$` in it gets the prefix that keeps variables from being put in."""
    prefix = ":" if any("$" in word for word in words) else ""
    return prefix + " ".join(unit_word(word, home) for word in words)


def unit_tail(text: str) -> str:
    """The rest of a unit's line, which systemd takes as it is but for specifiers.

    Raises:
        ConfigurationError: the text cannot stand at the end of a line.
    """
    refuse_unprintable(text, "a unit file")
    if text.endswith("\\") or text != text.strip():
        raise ConfigurationError(f"{escape(text)} cannot be written into a unit file: it ends with a backslash or a space")
    return text.replace("%", "%%")


def cron_command(words: tuple[str, ...]) -> str:
    """A command as cron hands it to the shell: an unescaped `%` would end it.

    Raises:
        ConfigurationError: a word has characters that no crontab can hold.
    """
    return " ".join(_cron_word(word) for word in words)


def cron_line(text: str) -> str:
    """A line of a crontab.

    Raises:
        ConfigurationError: it is longer than cron takes.
    """
    if len(text.encode()) > _LINE_MAX:
        raise ConfigurationError(f"a crontab line would have {len(text.encode())} bytes, and cron takes {_LINE_MAX}: use shorter paths")
    return text


def refuse_unprintable(text: str, where: str) -> None:
    """Refuses control characters, newlines above all, and bytes that are no UTF-8.

    Raises:
        ConfigurationError: the text has some.
    """
    if any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ConfigurationError(f"{escape(text)} cannot be written into {where}: rename it, without control characters, in UTF-8")


def _cron_word(word: str) -> str:
    """Each `%` stands outside the quotes: inside, a backslash before it would stay or take its own away."""
    refuse_unprintable(word, "a crontab")
    return "\\%".join(shlex.quote(part) if part else "" for part in word.split("%")) or "''"
