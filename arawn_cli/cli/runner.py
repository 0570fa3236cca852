"""Set up and tear down one command: configuration, log, outputs, signals, priority, exit code."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import psutil
import typer

from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.config.schema import Maintenance
from arawn_cli.context import Change, NoProgress, Progress, RunContext
from arawn_cli.errors import ArawnCliError, ExitCode, LockedError, OutputLostError, StoppedError
from arawn_cli.events import Event
from arawn_cli.output.jsonl import StandardOutput, json_lines
from arawn_cli.state import State, StateUnavailableError

if TYPE_CHECKING:
    from rich.console import Console

    from arawn_cli.delivery.sending import Delivery

log = logging.getLogger(__name__)


class Signals:
    """SIGTERM and SIGINT as something to ask about, so that a run ends between two steps and tells what it did."""

    def __init__(self) -> None:
        self._received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Takes both signals while the context lasts."""
        before = [(number, signal.signal(number, self._receive)) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def stopping(self) -> bool:
        """Whether one of them came."""
        return self._received is not None

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code that tells of the signal, or None when none came."""
        return None if self._received is None else ExitCode(128 + self._received)

    def _receive(self, number: int, _frame: object) -> None:
        self._received = number


# Within best-effort, where psutil's own default would be the highest.
_LOWEST = 7


def lower_priority(maintenance: Maintenance) -> None:
    """Lowers this process's processor and disk priority as configured; neither is ever raised.

    What may not be changed, as in some containers, stays as it is, and does not keep the other from being changed.
    """
    process = psutil.Process()
    for lower in (_lower_processor, _lower_disk):
        try:
            lower(process, maintenance)
        except (psutil.Error, OSError) as error:
            log.info("priorities stay as they are: %s", error)


def _lower_processor(process: psutil.Process, maintenance: Maintenance) -> None:
    if process.nice() < maintenance.nice:
        process.nice(maintenance.nice)


def _lower_disk(process: psutil.Process, maintenance: Maintenance) -> None:
    if maintenance.io_class == "none" or not hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        return
    idle, best_effort = psutil.IOPRIO_CLASS_IDLE, psutil.IOPRIO_CLASS_BE
    found = process.ionice().ioclass
    # What a unit has set already is not set again: the call may be one that the unit forbids.
    if maintenance.io_class == "idle" and found != idle:
        process.ionice(idle)
    elif maintenance.io_class == "best-effort" and found not in (idle, best_effort):
        process.ionice(best_effort, _LOWEST)


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


def confirmed(question: str) -> bool:
    """Whether the answer is yes; the end of the input (Ctrl-D) is a no.

    Raises:
        KeyboardInterrupt: the answer is Ctrl-C.
    """
    try:
        return typer.confirm(question)
    except typer.Abort as error:
        typer.echo()  # the cursor still stands behind the question
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What the command line says about output: `auto`, `table`, `json` or `none`, and how much is logged.

    `unless_running` is for schedulers that mail what is logged: that another run is at work is no trouble to them.
    """

    format: str
    verbose: bool
    quiet: bool
    unless_running: bool = False

    def resolved(self) -> str:
        """The format, with `auto` decided by where standard output goes."""
        if self.format != "auto":
            return self.format
        return "table" if sys.stdout.isatty() else "json"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended, and what is left to do once its events are delivered."""

    code: ExitCode
    afterwards: Callable[[], None] = lambda: None


Job = Callable[[Config, RunContext], Ended]


def run_job(
    flags: Flags,
    output: Output,
    job: Job,
    told: Callable[[str], None] = lambda _reason: None,
    prepared: Callable[[Config], Config] = lambda config: config,
) -> ExitCode:
    """Runs a job in its context, on the configuration as `prepared` leaves it; what ends it early gets to `told` too."""

    def body(console: Console | None) -> ExitCode:
        config = prepared(load(flags, os.environ))
        lower_priority(config.maintenance)
        return _run_configured(config, output, console, job)

    return guarded(output, body, told)


def guarded(output: Output, body: Callable[[Console | None], ExitCode], told: Callable[[str], None] = lambda _reason: None) -> ExitCode:
    """Runs a command with its log set up; whatever ends it early is told in one line and by the exit code."""
    console = _console()
    shows_table = output.resolved() == "table"
    reader = reader_of(sys.stderr.fileno(), os.environ)
    level = level_for(reader, verbose=output.verbose, quiet=output.quiet, shows_table=shows_table)
    configure(reader, level, console)
    try:
        return body(console)
    except OutputLostError as error:
        discard_stdout()
        log.error("%s", error)
        return error.exit_code
    except ArawnCliError as error:
        expected = output.unless_running and isinstance(error, LockedError)
        log.log(logging.INFO if expected else logging.ERROR, "%s", error)
        told(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_stdout()
        log.error("standard output takes no more: its reader went away")
        return ExitCode.UNDELIVERED
    except Exception as error:  # the last line of defence: no traceback for a person, its exit code for a machine
        log.error("internal error, please report it: %s: %s", type(error).__name__, error)
        told(f"internal error: {type(error).__name__}")
        log.debug("where it happened", exc_info=True)
        return ExitCode.INTERNAL


def _console() -> Console | None:
    """The terminal that standard error is, for logs and progress in colour; None where it is none, and needs nothing of it."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True)


def _run_configured(config: Config, output: Output, console: Console | None, job: Job) -> ExitCode:
    signals = Signals()
    with signals.caught(), _progress(output, console) as progress, closing(State(config.state_directory, time.time_ns)) as state:
        standard_output = StandardOutput(_writer(output, progress))
        delivery = _delivery(config, state, signals)
        context = RunContext(
            clock=time.time_ns,
            monotonic=time.monotonic_ns,
            host=socket.gethostname(),
            emit=_emit_to(delivery, standard_output.emit),
            state=state,
            commit=_commit_to(delivery, state, standard_output.emit),
            progress=progress,
            stopping=signals.stopping,
        )
        try:
            ended = job(config, context)
        except StoppedError:
            log.error("stopped by a signal")
            ended = Ended(ExitCode.TERMINATED)
        finally:
            lost = delivery.finish().lost if delivery else 0
        ended.afterwards()
    if standard_output.lost:
        discard_stdout()
        lost += standard_output.lost
    if lost:
        return ExitCode.UNDELIVERED  # also for a run that a signal ended: nothing else would tell of it
    return signals.exit_code or ended.code


def _progress(output: Output, console: Console | None) -> AbstractContextManager[Progress]:
    lines_in_between = output.resolved() == "json" and sys.stdout.isatty()
    if console is None or output.quiet or lines_in_between:
        return nullcontext(NoProgress())
    from arawn_cli.output.tables import TerminalProgress

    return TerminalProgress(console)


def _delivery(config: Config, state: State, signals: Signals) -> Delivery | None:
    """The relay's side of the run. What it is made of is imported only where there is a relay: most starts have none."""
    if config.relay is None:
        return None
    from arawn_cli.delivery.sending import delivery_for

    return delivery_for(config, config.relay, os.environ, state, signals.stopping)


def _emit_to(delivery: Delivery | None, show: Callable[[Event], None]) -> Callable[[Event], None]:
    """Stores an event before it shows: what was seen is not lost afterwards."""
    if delivery is None:
        return show

    def emit(event: Event) -> None:
        delivery.emit(event)
        show(event)

    return emit


def _commit_to(delivery: Delivery | None, state: State, show: Callable[[Event], None]) -> Callable[[Change], bool]:
    """Shows the events of a change once it is kept."""

    def commit(change: Change) -> bool:
        events = delivery.commit(change) if delivery else _change(state, change)
        for event in events or ():
            show(event)
        return events is not None

    return commit


def _change(state: State, change: Change) -> Sequence[Event] | None:
    try:
        with state.transaction() as connection:
            return change(connection)
    except StateUnavailableError as error:
        log.warning("%s: levels are told as measured, and not remembered", error)
        return None


def _writer(output: Output, progress: Progress) -> Callable[[Event], None]:
    match output.resolved():
        case "table":
            from arawn_cli.output.tables import OutputConsole, Tables

            return Tables(OutputConsole(), verbose=output.verbose, first=progress.end).emit
        case "json":
            return json_lines(sys.stdout)
        case _:
            return lambda _event: None


def discard_stdout() -> None:
    """Points standard output at nothing, so that the interpreter does not fail flushing it at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
