"""Run a job.

Load the configuration, lower the priority, catch signals, open what the job needs, run it, deliver
its events, write its metrics, derive the exit code, notify people, and ping.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

import psutil

from arawn_cli.cli.account import load_as_owner
from arawn_cli.cli.options import Output
from arawn_cli.cli.terminal import configure_logging, progress_for, stderr_console
from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.schema import Maintenance
from arawn_cli.context import Outboxes, Progress, RunContext
from arawn_cli.errors import ArawnCliError, ExitCode, LockedError, OutputLostError, StoppedError, log_error
from arawn_cli.events import Event, JobName
from arawn_cli.output.stdout import print_event
from arawn_cli.problems import ProblemLog
from arawn_cli.state import State
from arawn_cli.timestamps import SECOND
from arawn_cli.units import period

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arawn_cli.delivery.notify import Notifier
    from arawn_cli.delivery.ping import Pings

log = logging.getLogger(__name__)


_READER_SECS = 0.5  # to take what a run still writes after a signal


class Signals:
    """Record SIGTERM and SIGINT, so that a run ends between two steps and reports what it did.

    If a reader of the output has stopped reading, the run does not wait for it after a signal.
    """

    def __init__(self) -> None:
        self._received: int | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle both signals inside the context, and restore the previous handlers after it."""
        before = [(number, signal.signal(number, self._receive)) for number in (signal.SIGTERM, signal.SIGINT)]
        before.append((signal.SIGALRM, signal.signal(signal.SIGALRM, _stop_waiting_for_readers)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number for number, _ in before])  # the parent may have blocked them
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before:
                signal.signal(number, handler)

    def stopping(self) -> bool:
        """Return whether one of the signals was received."""
        return self._received is not None

    @property
    def exit_code(self) -> ExitCode | None:
        """Return 128 plus the number of the signal, or None without a signal."""
        return None if self._received is None else ExitCode(128 + self._received)

    def _receive(self, number: int, _frame: object) -> None:
        self._received = number
        signal.setitimer(signal.ITIMER_REAL, _READER_SECS)


def _stop_waiting_for_readers(_number: int, _frame: object) -> None:
    """Let a write to a full pipe fail, which Python would otherwise try again after each signal."""
    for descriptor in (1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, False)


# The lowest priority of the best-effort class (ioprio_set(2)); psutil's own default is the highest.
_LOWEST = 7


def lower_priority(maintenance: Maintenance) -> None:
    """Lower the CPU and disk priority of this process to the configured values; never raise them.

    Some containers do not allow it: a priority that cannot be lowered stays, and the other one is
    still lowered.
    """
    for lower in (_lower_cpu, _lower_disk):
        try:
            lower(psutil.Process(), maintenance)  # which needs /proc
        except (psutil.Error, OSError) as error:
            log.info("cannot lower the priority of this process: %s", error)


def _lower_cpu(process: psutil.Process, maintenance: Maintenance) -> None:
    if process.nice() < maintenance.nice:
        process.nice(maintenance.nice)


def _lower_disk(process: psutil.Process, maintenance: Maintenance) -> None:
    if maintenance.io_class == "none" or not hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        return
    idle, best_effort = psutil.IOPRIO_CLASS_IDLE, psutil.IOPRIO_CLASS_BE
    current = process.ionice().ioclass
    # If a systemd unit has set the class already, do not set it again: it may forbid the call.
    if maintenance.io_class == "idle" and current != idle:
        process.ionice(idle)
    elif maintenance.io_class == "best-effort" and current not in (idle, best_effort):
        process.ionice(best_effort, _LOWEST)


class JobResult(Protocol):
    """The one value that a job returns; output, metrics and the exit code derive from it."""

    @property
    def exit_code(self) -> ExitCode:
        """Return the exit code that the result alone implies."""


@runtime_checkable
class HasSummary(Protocol):
    """The result of a job that sums itself up in its last event."""

    @property
    def summary(self) -> Event:
        """Return the last event."""


Result = TypeVar("Result", bound=JobResult)


@dataclass(slots=True)
class JobRun(Generic[Result]):
    """How the run of a job ended.

    Attributes:
        result: what the job returned, or None if an error or a signal ended it first.
        exit_code: of the run. Lost events outweigh a signal, which outweighs the result.
        problems: what went wrong beside the result, as sentences; without any, the run is complete.
    """

    result: Result | None = None
    exit_code: ExitCode = ExitCode.DONE
    problems: list[str] = field(default_factory=list)


def run_job(
    flags: Flags,
    output: Output,
    job: Callable[[Config, RunContext], Result],
    *,
    name: JobName | None = None,
    unless_running: bool = False,
    outputs: Mapping[Path, int] | None = None,
    table: Callable[[Result], Iterable[RenderableType]] | None = None,
) -> JobRun[Result]:
    """Run a job and return how it ended; errors are logged and become the exit code.

    With `unless_running`, a run that finds another one in progress ends with exit code 0, and no
    error is logged. `outputs` are files that the command line names, with their modes. `name` is
    that of the job about which people are notified, and whose address is pinged; without it none
    is. `table` renders the result for people, instead of its events.
    """
    configure_logging(output)
    run: JobRun[Result] = JobRun()
    signals = Signals()
    pings: Pings | None = None
    notifier: Notifier | None = None
    problem_log: ProblemLog | None = None
    try:
        config = load_as_owner(flags, outputs)
        if not config.dry_run:
            pings = _pings_to(config.pings, name, signals, use_proxy=config.maintenance.use_proxy)
        notifier = _notifier(config, name, signals)
        problem_log = _problem_log(config, name)
        lower_priority(config.maintenance)
        with (
            signals.caught(),
            progress_for(output) as progress,
            closing(State(config.state_directory, time.time_ns)) as state,
        ):
            standard_output = EventOutput(_writer(output, progress, flags, events=table is None))
            delivery = None
            if config.relay is not None:
                from arawn_cli.delivery.sending import delivery_for  # not imported without a relay

                delivery = delivery_for(config, config.relay, os.environ, state, signals.stopping)
            context = RunContext(
                state=state,
                show=standard_output.emit,
                outbox=Outboxes([outbox for outbox in (delivery, notifier) if outbox is not None]),
                progress=progress,
                stopping=signals.stopping,
                started=pings.start if pings is not None else lambda: None,
            )
            lost = 0
            try:
                run.result = job(config, context)
                run.exit_code = run.result.exit_code
            except StoppedError:
                log.error("stopped by a signal")
            finally:
                if delivery is not None:
                    lost = delivery.finish().lost
            if config.metrics_directory and not config.dry_run and run.result is not None:
                from arawn_cli.output import prometheus

                if not prometheus.write(config.metrics_directory, config, state, run.result):
                    run.problems.append("the metrics could not be written")
        if table is not None and run.result is not None and output.resolved() == "table":
            _print_table(table(run.result), standard_output)
        if signals.exit_code is not None:
            run.exit_code = signals.exit_code
            run.problems.append("stopped by a signal")
        if lost or standard_output.failed:
            run.exit_code = ExitCode.UNDELIVERED
            run.problems.append(f"events neither delivered nor stored: {lost}" if lost else "standard output cannot be written")
    except LockedError as error:
        log.log(logging.INFO if unless_running else logging.ERROR, "%s", error)
        run.exit_code = ExitCode.DONE if unless_running else error.exit_code
        run.problems.append(str(error))
    except (Exception, KeyboardInterrupt) as error:  # a bug ends with one line and its exit code, too
        run.exit_code = log_error(error)
        run.problems.append(str(error) if isinstance(error, ArawnCliError) else f"{type(error).__name__}: {error}")
        if isinstance(error, ArawnCliError) and error.pings:
            pings = _pings_to(error.pings, name, signals)
    if notifier is not None:
        _notify(notifier, run, signals)
    if pings is not None:
        with signals.caught():  # a signal shortens the ping, and changes the exit code no more
            pings.end(run.exit_code, run.result.summary if isinstance(run.result, HasSummary) else None, run.problems)
    if problem_log is not None:
        problem_log.end(time.time_ns(), complete=run.result is not None)
    return run


def _problem_log(config: Config, name: JobName | None) -> ProblemLog | None:
    """Have the persistent problems of a job logged once a day.

    A run at a terminal logs them each time. So does one that changes nothing or has another relay.
    """
    if name is None or config.dry_run or not config.remembers or stderr_console() is not None:
        return None
    schedule = config.maintenance.schedule
    interval = schedule.disk_check if name is JobName.DISK_CHECK else schedule.scratch_cleanup
    problems = ProblemLog(config.state_directory, name, config.root.resolve(), period(interval) * SECOND)
    problems.begin()
    return problems


def _pings_to(addresses: Mapping[str, str], name: JobName | None, signals: Signals, *, use_proxy: bool = True) -> Pings | None:
    url = addresses.get(name) if name is not None else None
    if url is None:
        return None
    from arawn_cli.delivery.ping import Pings  # not imported without an address

    return Pings(url, signals.stopping, use_proxy)


def _notifier(config: Config, name: JobName | None, signals: Signals) -> Notifier | None:
    if config.notify_urls is None or name is None or config.dry_run or not config.remembers:
        return None
    from arawn_cli.delivery.notify import notifier_for  # not imported without addresses

    return notifier_for(config, config.notify_urls, name, os.environ, signals.stopping)


def _notify(notifier: Notifier, run: JobRun[Result], signals: Signals) -> None:
    """Notify people of the run, after everything else: only now is it known how it ended."""
    try:
        with signals.caught():  # a signal shortens it
            lost = notifier.finish(run.exit_code, run.problems, has_result=run.result is not None)
    except Exception as error:
        run.exit_code = log_error(error)
        return
    if lost:
        run.exit_code = ExitCode.UNDELIVERED
        run.problems.append(f"notifications neither sent nor stored: {lost}")


class EventOutput:
    """Write events to standard output. If that fails, log it and write no more; the run goes on."""

    def __init__(self, write: Callable[[Event], None]) -> None:
        self._write = write
        self.failed = False

    def emit(self, event: Event) -> None:
        """Write one event, unless an earlier one could not be written."""
        if self.failed:
            return
        try:
            self._write(event)
        except OutputLostError as error:
            self.failed = True
            log.error("%s", error)


def _print_table(table: Iterable[RenderableType], standard_output: EventOutput) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    try:
        for renderable in table:
            console.print(renderable, crop=False)
    except OutputLostError as error:
        standard_output.failed = True
        log.error("%s", error)


def _writer(output: Output, progress: Progress, flags: Flags, *, events: bool) -> Callable[[Event], None]:
    """Return the printer of events for a format; without `events`, a table prints none."""
    match output.resolved():
        case "table" if not events:
            return lambda _event: None
        case "table":
            from rich.console import Console

            from arawn_cli.output.tables import Tables

            return Tables(Console(), verbose=output.verbose, sort=output.sort, first=progress.end, options=flags.located).emit
        case "json":
            return print_event
        case "none":
            return lambda _event: None
        case other:
            raise ValueError(f"no output prints the format {other}")
