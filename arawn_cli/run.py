"""Around one job: configuration, log, sinks and signals, and its exit code."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arawn_cli import logs
from arawn_cli.config import Config, Flags, load
from arawn_cli.errors import ArawnCliError, ExitCode, LockedError, OutputLostError, StoppedError
from arawn_cli.events import Event
from arawn_cli.interruption import Signals
from arawn_cli.priority import stand_back
from arawn_cli.sinks.stdout import StandardOutput, json_lines
from arawn_cli.state import State
from arawn_cli.state_file import StateUnavailableError
from arawn_cli.surroundings import Change, NoProgress, Progress, Surroundings

if TYPE_CHECKING:
    from rich.console import Console

    from arawn_cli.delivery import Delivery

log = logging.getLogger(__name__)


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


Job = Callable[[Config, Surroundings], Ended]


def run_job(
    flags: Flags,
    output: Output,
    job: Job,
    told: Callable[[str], None] = lambda _reason: None,
    prepared: Callable[[Config], Config] = lambda config: config,
) -> ExitCode:
    """Runs a job in its surroundings, on the configuration as `prepared` leaves it; what ends it early gets to `told` too."""

    def body(console: Console | None) -> ExitCode:
        config = prepared(load(flags, os.environ))
        stand_back(config.maintenance)
        return _run_configured(config, output, console, job)

    return guarded(output, body, told)


def guarded(output: Output, body: Callable[[Console | None], ExitCode], told: Callable[[str], None] = lambda _reason: None) -> ExitCode:
    """Runs a command with its log set up; whatever ends it early is told in one line and by the exit code."""
    console = _console()
    shows_table = output.resolved() == "table"
    reader = logs.reader_of(sys.stderr.fileno(), os.environ)
    level = logs.level_for(reader, verbose=output.verbose, quiet=output.quiet, shows_table=shows_table)
    logs.configure(reader, level, console)
    try:
        return body(console)
    except OutputLostError as error:
        abandon_stdout()
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
        abandon_stdout()
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
        surroundings = Surroundings(
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
            ended = job(config, surroundings)
        except StoppedError:
            log.error("stopped by a signal")
            ended = Ended(ExitCode.TERMINATED)
        finally:
            lost = delivery.finish().lost if delivery else 0
        ended.afterwards()
    if standard_output.lost:
        abandon_stdout()
        lost += standard_output.lost
    if lost:
        return ExitCode.UNDELIVERED  # also for a run that a signal ended: nothing else would tell of it
    return signals.exit_code or ended.code


def _progress(output: Output, console: Console | None) -> AbstractContextManager[Progress]:
    lines_in_between = output.resolved() == "json" and sys.stdout.isatty()
    if console is None or output.quiet or lines_in_between:
        return nullcontext(NoProgress())
    from arawn_cli.render import TerminalProgress

    return TerminalProgress(console)


def _delivery(config: Config, state: State, signals: Signals) -> Delivery | None:
    """The relay's side of the run. What it is made of is imported only where there is a relay: most starts have none."""
    if config.relay is None:
        return None
    from arawn_cli.dispatch import delivery_for

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
            from arawn_cli.render import OutputConsole, Tables

            return Tables(OutputConsole(), verbose=output.verbose, first=progress.end).emit
        case "json":
            return json_lines(sys.stdout)
        case _:
            return lambda _event: None


def abandon_stdout() -> None:
    """Points standard output at nothing, so that the interpreter does not fail flushing it at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
