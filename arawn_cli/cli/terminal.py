"""Standard error and the person at the terminal: log records, progress, questions."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

import typer

from arawn_cli.cli.options import Format, Output
from arawn_cli.context import Progress
from arawn_cli.names import escape

if TYPE_CHECKING:
    from rich.console import Console

# syslog priorities (sd-daemon(3))
_PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


def configure_logging(output: Output) -> None:
    """Send the log records of this package to standard error, in the form that suits its reader.

    The journal keeps every action. Cron mails every record, so it gets only warnings and errors.
    A table already shows the actions to a person.
    """
    console = stderr_console()
    # $JOURNAL_STREAM names the device and inode of the journal's socket. A process can inherit the
    # variable while its own stream goes elsewhere, so both are compared (systemd.exec(5)).
    status = os.fstat(sys.stderr.fileno())
    to_journal = console is None and os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    handler: logging.Handler
    if console is not None:
        from rich.logging import RichHandler

        handler = RichHandler(console=console, show_time=False, show_path=False, markup=False, highlighter=None)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(_JournalFormatter() if to_journal else logging.Formatter("%(levelname)s: %(message)s"))
    if output.quiet:
        level = logging.ERROR
    elif output.format is Format.TABLE and not to_journal:
        level = logging.WARNING
    elif console is not None or to_journal:
        level = logging.DEBUG if output.verbose else logging.INFO
    else:
        level = logging.INFO if output.verbose else logging.WARNING
    logging.raiseExceptions = False  # a record that cannot be written would be followed by a traceback
    package = logging.getLogger("arawn_cli")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(level)


class _JournalFormatter(logging.Formatter):
    """Format a record as one line that begins with its syslog priority (sd-daemon(3))."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        return f"<{_PRIORITIES.get(record.levelno, 6)}>{text}"


@contextmanager
def no_warning_twice() -> Iterator[None]:
    """Log each warning and error in the block only once.

    A dry run, the question to a person, and the run after it are in one block: both runs find the
    same problems.
    """
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno <= logging.INFO:
            return True
        text = record.getMessage()
        if text in seen:
            return False
        seen.add(text)
        return True

    (handler,) = logging.getLogger("arawn_cli").handlers  # that of `configure_logging`
    handler.addFilter(is_new)
    try:
        yield
    finally:
        handler.removeFilter(is_new)


@cache
def stderr_console() -> Console | None:
    """Return the console of standard error, for log and progress; None if it is not a terminal."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True)


def progress_for(output: Output) -> AbstractContextManager[Progress]:
    """Return the progress display; without a terminal or with `--quiet` it shows nothing.

    JSON lines on the same terminal would break the display, so there is none beside them.
    """
    console = stderr_console()
    if console is None or output.quiet or (output.format is Format.JSON and sys.stdout.isatty()):
        return nullcontext(Progress())
    from arawn_cli.output.tables import TerminalProgress

    return TerminalProgress(console)


def can_ask(output: Output) -> bool:
    """Whether a person at a terminal sees a table and can answer a question."""
    return output.format is Format.TABLE and is_interactive()


def is_interactive() -> bool:
    """Whether a person at a terminal can answer a question, wherever standard output goes."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def question() -> Callable[[str], bool] | None:
    """Return the function that asks about what standard output shows; None without a terminal."""
    return confirmed if sys.stdin.isatty() and sys.stdout.isatty() else None


def confirmed(text: str) -> bool:
    """Ask a yes-or-no question; the end of the input (Ctrl-D) counts as no.

    A signal ends the question at once. A job only records signals, and the question would go on.

    Raises:
        KeyboardInterrupt: the answer is Ctrl-C.
    """
    with _default_signals():
        try:
            return typer.confirm(escape(text), err=True)
        except typer.Abort as error:
            typer.echo(err=True)  # end the line of the question
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            return False


@contextmanager
def _default_signals() -> Iterator[None]:
    """Let SIGINT raise `KeyboardInterrupt` and SIGTERM end the process inside the context."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
