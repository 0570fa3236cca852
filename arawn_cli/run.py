"""Composing one run: configuration, log, sinks and signals around a use case, and its exit code."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from arawn_cli import logs
from arawn_cli.config import Config, Flags, load
from arawn_cli.errors import ArawnCliError, ExitCode, StoppedError
from arawn_cli.events import Event, Level
from arawn_cli.model import Reason
from arawn_cli.pressure import reaches
from arawn_cli.priority import stand_back
from arawn_cli.render import NoProgress, OutputConsole, Tables, TerminalProgress
from arawn_cli.sinks.stdout import StandardOutput, json_lines
from arawn_cli.surroundings import Progress, Surroundings

if TYPE_CHECKING:
    from arawn_cli.delivery import Delivery

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Output:
    """What the command line says about output: `auto`, `table`, `json` or `none`, and how much is logged."""

    format: str
    verbose: bool
    quiet: bool

    def resolved(self) -> str:
        """The format, with `auto` decided by where standard output goes."""
        if self.format != "auto":
            return self.format
        return "table" if sys.stdout.isatty() else "json"


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


def run_cleanup(flags: Flags, output: Output) -> ExitCode:
    """`scratch-cleanup`, from flags to exit code."""

    def job(config: Config, surroundings: Surroundings) -> ExitCode:
        from arawn_cli.scratch_cleanup import clean

        summary = clean(config, surroundings)
        if Reason.BRAKE in summary.sessions_skipped:
            return ExitCode.REFUSED
        return ExitCode.PARTIAL if summary.failures else ExitCode.DONE

    return _run(flags, output, job)


def run_check(flags: Flags, output: Output, fail_on: str | None) -> ExitCode:
    """`disk-check`, from flags to exit code; a level that was reached outweighs a part that could not be read."""

    def job(config: Config, surroundings: Surroundings) -> ExitCode:
        from arawn_cli.disk_check import check

        summary = check(config, surroundings)
        if fail_on is not None and reaches(summary.level, Level(fail_on)):
            return ExitCode.LEVEL_REACHED
        return ExitCode.DONE if summary.complete else ExitCode.PARTIAL

    return _run(flags, output, job)


def run_trash_list(flags: Flags, output: Output) -> ExitCode:
    """`trash list`, from flags to exit code."""
    from arawn_cli.trash_contents import list_trash

    return _run(flags, output, lambda config, surroundings: _whole(list_trash(config, surroundings)))


def run_trash_restore(flags: Flags, output: Output, session: str) -> ExitCode:
    """`trash restore`, from flags to exit code."""
    from arawn_cli.trash_contents import restore

    return _run(flags, output, lambda config, surroundings: _whole(restore(config, surroundings, session)))


def run_trash_purge(flags: Flags, output: Output, older_than_days: int) -> ExitCode:
    """`trash purge`, from flags to exit code."""
    from arawn_cli.trash_contents import empty

    return _run(flags, output, lambda config, surroundings: _whole(empty(config, surroundings, older_than_days)))


def _whole(succeeded: bool) -> ExitCode:
    return ExitCode.DONE if succeeded else ExitCode.PARTIAL


def _run(flags: Flags, output: Output, job: Callable[[Config, Surroundings], ExitCode]) -> ExitCode:
    """Runs a job in its surroundings."""

    def body(console: Console) -> ExitCode:
        config = load(flags, os.environ)
        for key in config.without_effect:
            log.warning("[maintenance] %s is set, and has no effect in this version", key)
        stand_back(config.maintenance)
        return _run_configured(config, output, console, job)

    return guarded(output, body)


def guarded(output: Output, body: Callable[[Console], ExitCode]) -> ExitCode:
    """Runs a command with its log set up; whatever ends it early is told in one line and by the exit code."""
    console = Console(stderr=True)
    shows_table = output.resolved() == "table"
    reader = logs.reader_of(sys.stderr.fileno(), os.environ)
    level = logs.level_for(reader, verbose=output.verbose, quiet=output.quiet, shows_table=shows_table)
    logs.configure(reader, level, console)
    try:
        return body(console)
    except ArawnCliError as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("interrupted")
        return ExitCode.INTERRUPTED
    except Exception as error:  # the last line of defence: no traceback for a person, its exit code for a machine
        log.error("internal error, please report it: %s: %s", type(error).__name__, error)
        log.debug("where it happened", exc_info=True)
        return ExitCode.INTERNAL


def _run_configured(config: Config, output: Output, console: Console, job: Callable[[Config, Surroundings], ExitCode]) -> ExitCode:
    signals = Signals()
    standard_output = StandardOutput(_writer(output))
    with ExitStack() as stack:
        stack.enter_context(signals.caught())
        progress: Progress = NoProgress()
        if sys.stderr.isatty() and not output.quiet:
            progress = stack.enter_context(TerminalProgress(console))
        delivery = _delivery(config, signals)
        emit = _emit_to(delivery, standard_output.emit)
        surroundings = Surroundings(time.time_ns, time.monotonic_ns, socket.gethostname(), emit, progress, signals.stopping)
        try:
            code = job(config, surroundings)
        except StoppedError:
            log.error("stopped by a signal")
            code = ExitCode.TERMINATED
        finally:
            lost = delivery.finish().lost if delivery else 0
    if standard_output.lost:
        _abandon_stdout()
        lost += standard_output.lost
    if lost:
        code = ExitCode.UNDELIVERED
    return signals.exit_code or code


def _delivery(config: Config, signals: Signals) -> Delivery | None:
    """The relay's side of the run. What it is made of is imported only where there is a relay: most starts have none."""
    if config.relay is None:
        return None
    from arawn_cli.dispatch import delivery_for

    return delivery_for(config, os.environ, signals.stopping)


def _emit_to(delivery: Delivery | None, show: Callable[[Event], None]) -> Callable[[Event], None]:
    """Stores an event before it shows: what was seen is not lost afterwards."""
    if delivery is None:
        return show

    def emit(event: Event) -> None:
        delivery.emit(event)
        show(event)

    return emit


def _writer(output: Output) -> Callable[[Event], None]:
    match output.resolved():
        case "table":
            return Tables(OutputConsole(), verbose=output.verbose).emit
        case "json":
            return json_lines(sys.stdout)
        case _:
            return lambda _event: None


def _abandon_stdout() -> None:
    """Points standard output at nothing, so that the interpreter does not fail flushing it at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
