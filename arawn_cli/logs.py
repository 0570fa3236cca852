"""Log records on standard error, in the form that its reader expects."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class Reader(Enum):
    """Who reads standard error."""

    TERMINAL = "terminal"
    JOURNAL = "journal"
    OTHER = "other"


def reader_of(descriptor: int, environment: Mapping[str, str]) -> Reader:
    """Who reads an open stream.

    `$JOURNAL_STREAM` names device and inode of the journal's socket; it may be inherited by a process
    whose stream goes elsewhere, so both are compared (systemd.exec(5)).
    """
    if os.isatty(descriptor):
        return Reader.TERMINAL
    status = os.fstat(descriptor)
    if environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return Reader.JOURNAL
    return Reader.OTHER


def level_for(reader: Reader, *, verbose: bool, quiet: bool, shows_table: bool) -> int:
    """The level from which on records are written.

    The journal keeps every action. A crontab's mail carries trouble alone, and a table already shows the rest to a person.
    """
    if quiet:
        return logging.ERROR
    if shows_table and reader is not Reader.JOURNAL:
        return logging.WARNING
    if reader is not Reader.OTHER:
        return logging.DEBUG if verbose else logging.INFO
    return logging.INFO if verbose else logging.WARNING


def configure(reader: Reader, level: int, console: Console | None) -> None:
    """Sends the package's records to standard error; `console` is the one that progress is drawn on."""
    handler: logging.Handler
    if console is not None and reader is Reader.TERMINAL:
        from rich.logging import RichHandler

        handler = RichHandler(console=console, show_time=False, show_path=False, markup=False, highlighter=None)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_JournalFormatter() if reader is Reader.JOURNAL else logging.Formatter("%(levelname)s: %(message)s"))
    package = logging.getLogger("arawn_cli")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(level)


class _JournalFormatter(logging.Formatter):
    """One line with the syslog priority in front (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}"
