"""Write crontab lines."""

from __future__ import annotations

import re
import shlex

import psutil

from arawn_cli.errors import ConfigurationError
from arawn_cli.names import escape
from arawn_cli.schedule.intervals import cron_time
from arawn_cli.schedule.settings import Job, Scope, Settings

_PLAIN = re.compile(r"[A-Za-z0-9_./:@+=,%-]+", re.ASCII)


_LINE_MAX = 998  # cron drops what is longer


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


CRON_FILE = "arawn-cli"


START_CRON = "service cron start"


def cron_file(settings: Settings) -> str:
    """A file for /etc/cron.d, whose lines name the account in their sixth field."""
    return (
        "# What the tool logs outside a terminal is trouble alone, and cron mails it; results go to the system log.\n"
        "# Each line runs as the account that runs the Arawn server, and owns the tree.\n"
        "SHELL=/bin/sh\n"
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        "MAILTO=root\n\n"
        "# m h dom mon dow user command\n" + _lines(settings)
    )


def cron_block(settings: Settings) -> str:
    """Lines for an account's own crontab. They set no variable, which would hold for the lines after them too."""
    return "# What the tool logs outside a terminal is trouble alone, and cron mails it to this account, or to MAILTO.\n" + _lines(settings)


def cron_runs() -> bool:
    """Whether a cron is there to read them."""
    return any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"]))


def _lines(settings: Settings) -> str:
    return "".join(f"{cron_line(_line(settings, job))}\n" for job in settings.jobs)


def _line(settings: Settings, job: Job) -> str:
    time = cron_time(job.interval, job.name, settings.host, str(settings.root))
    words = [str(time)]
    if settings.scope is Scope.SYSTEM:
        refuse_unprintable(settings.account.name, "a crontab")
        words.append(settings.account.name)
    command = (*settings.command, job.name, *settings.options, "--unless-running")
    if settings.logger is not None:
        return " ".join([*words, cron_command((*command, "--format", "json")), "|", cron_command((settings.logger, "-t", job.unit))])
    return " ".join([*words, cron_command((*command, "--format", "none"))])
