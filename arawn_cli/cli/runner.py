"""Run a job.

Load the configuration, lower the priority, open state and outputs, catch signals, run the job,
deliver its events, write its metrics, derive the exit code, notify people, and ping.
"""

from __future__ import annotations

import logging
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

import psutil

from arawn_cli.cli.account import load_as_owner
from arawn_cli.cli.options import Format, Output
from arawn_cli.cli.terminal import configure_logging, progress_for, stderr_console
from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.schema import Maintenance
from arawn_cli.context import Progress, RunContext
from arawn_cli.errors import ArawnCliError, ExitCode, LockedError, OutputLostError, StoppedError, log_error
from arawn_cli.events import Event, JobName
from arawn_cli.problems import ProblemLog
from arawn_cli.state import State
from arawn_cli.timestamps import SECOND
from arawn_cli.units import period

if TYPE_CHECKING:
    from rich.console import RenderableType

    from arawn_cli.delivery.notify import Notifier
    from arawn_cli.delivery.ping import Pings
    from arawn_cli.delivery.sending import Delivery

log = logging.getLogger(__name__)


_READER_SECS = 0.5  # to take the last output of a run after a signal


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
    """Let a write to a full pipe or socket fail, which Python would try again after each signal.

    A service writes to a socket of the journal.
    """
    for descriptor in (1, 2):
        if stat.S_IFMT(os.fstat(descriptor).st_mode) in (stat.S_IFIFO, stat.S_IFSOCK):
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
        result: the value that the job returned, or None if an error or a signal ended it first.
        exit_code: of the run. Lost events outweigh a signal, which outweighs the result.
        problems: failures beside the result, as sentences; without any, the run is complete.
        is_stopped: whether a signal asked it to end.
    """

    result: Result | None = None
    exit_code: ExitCode = ExitCode.DONE
    problems: list[str] = field(default_factory=list)
    is_stopped: bool = field(default=False, compare=False)

    def fail(self, exit_code: ExitCode, problem: str) -> None:
        """Add a problem, which determines the exit code."""
        self.exit_code = exit_code
        self.problems.append(problem)

    def end_by(self, error: BaseException) -> None:
        """Log an error, and add it as a problem."""
        self.fail(log_error(error), str(error) if isinstance(error, ArawnCliError) else f"{type(error).__name__}: {error}")


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
    reports = _Reports(name, signals)
    with ExitStack() as stack:
        try:
            config = load_as_owner(flags, outputs)
            state = stack.enter_context(closing(State(config.state_directory, time.time_ns)))
            reports.prepare(config, state)
            lower_priority(config.maintenance)
            with signals.caught(), progress_for(output) as progress:
                writer = _writer(output, progress, flags, events=table is None)
                standard_output = StandardOutput()
                delivery = _delivery(config, state, signals)
                context = RunContext(
                    state=state,
                    show=lambda event: standard_output.attempt(partial(writer, event)),
                    outboxes=[outbox for outbox in (delivery, reports.notifier) if outbox is not None],
                    progress=progress,
                    stopping=signals.stopping,
                    started=reports.started,
                )
                lost = _run_and_deliver(run, partial(job, config, context), delivery)
                _write_metrics(config, state, run)
            if table is not None and run.result is not None and output.format is Format.TABLE:
                standard_output.attempt(partial(_print_table, table(run.result)))
            if signals.exit_code is not None:
                run.fail(signals.exit_code, "stopped by a signal")
            if lost or standard_output.failed:
                run.fail(
                    ExitCode.UNDELIVERED, f"events neither delivered nor stored: {lost}" if lost else "standard output cannot be written"
                )
        except LockedError as error:
            log.log(logging.INFO if unless_running else logging.ERROR, "%s", error)
            run.fail(ExitCode.DONE if unless_running else error.exit_code, str(error))
        except (Exception, KeyboardInterrupt) as error:  # a bug ends with one line and its exit code, too
            run.end_by(error)
            if isinstance(error, ArawnCliError):
                reports.ping_to(error.pings)
        reports.send(run)
    run.is_stopped = signals.stopping()
    return run


@dataclass(slots=True)
class _Reports:
    """How people learn of a run: pings, notifications, and warnings that are logged once a day.

    A run without a name and a dry run are not reported. One with another relay only pings.
    """

    name: JobName | None
    signals: Signals
    pings: Pings | None = None
    notifier: Notifier | None = None
    problem_log: ProblemLog | None = None

    def prepare(self, config: Config, state: State) -> None:
        """Prepare the reports of a run before it begins.

        Raises:
            ConfigurationError: the addresses of notifications cannot be read.
        """
        if self.name is None or config.dry_run:
            return
        self.ping_to(config.pings, use_proxy=config.maintenance.use_proxy)
        if not config.remembers:
            return
        if config.notify_urls is not None:
            from arawn_cli.delivery.notify import notifier_for  # not imported without addresses

            self.notifier = notifier_for(config, config.notify_urls, self.name, os.environ, state, self.signals.stopping)
        if stderr_console() is None:  # a run at a terminal logs its problems each time
            schedule = config.maintenance.schedule
            interval = schedule.disk_check if self.name is JobName.DISK_CHECK else schedule.scratch_cleanup
            self.problem_log = ProblemLog(state, self.name, config.root.resolve(), period(interval) * SECOND)
            self.problem_log.begin()

    def ping_to(self, addresses: Mapping[str, str], *, use_proxy: bool = True) -> None:
        """Ping the address of the job, if there is one."""
        if self.name is not None and (url := addresses.get(self.name)) is not None:
            from arawn_cli.delivery.ping import Pings  # not imported without an address

            self.pings = Pings(url, self.signals.stopping, use_proxy)

    def started(self) -> None:
        """Ping that the run has its lock and begins."""
        if self.pings is not None:
            self.pings.start()

    def send(self, run: JobRun[Result]) -> None:
        """Report a run after everything else: only now is it known how it ended."""
        has_result = run.result is not None
        if self.notifier is not None:
            try:
                with self.signals.caught():  # a signal shortens it
                    lost = self.notifier.finish(run.exit_code, run.problems, has_result=has_result)
                if lost:
                    run.fail(ExitCode.UNDELIVERED, f"notifications neither sent nor stored: {lost}")
            except Exception as error:  # a bug here must not keep the run from its ping and its log
                run.end_by(error)
        if self.pings is not None:
            with self.signals.caught():  # a signal shortens the ping, and changes the exit code no more
                self.pings.end(run.exit_code, run.result.summary if isinstance(run.result, HasSummary) else None, run.problems)
        if self.problem_log is not None:
            self.problem_log.end(time.time_ns(), complete=has_result)


def _run_and_deliver(run: JobRun[Result], job: Callable[[], Result], delivery: Delivery | None) -> int:
    """Run the job, send its events however it ends, and return the number of lost events."""
    lost = 0
    try:
        run.result = job()
        run.exit_code = run.result.exit_code
    except StoppedError:
        log.error("stopped by a signal")
    finally:
        if delivery is not None:
            lost = delivery.finish().lost
    return lost


def _delivery(config: Config, state: State, signals: Signals) -> Delivery | None:
    if config.relay is None:
        return None
    from arawn_cli.delivery.sending import delivery_for  # not imported without a relay

    return delivery_for(config, config.relay, os.environ, state, signals.stopping)


def _write_metrics(config: Config, state: State, run: JobRun[Result]) -> None:
    if config.metrics_directory and not config.dry_run and run.result is not None:
        from arawn_cli.output import prometheus

        if not prometheus.write(config.metrics_directory, config, state, run.result):
            run.problems.append("the metrics could not be written")


class StandardOutput:
    """Standard output. If it fails, that is logged and nothing more is written; the run goes on."""

    failed = False

    def attempt(self, write: Callable[[], None]) -> None:
        """Write something, unless an earlier attempt failed."""
        if self.failed:
            return
        try:
            write()
        except OutputLostError as error:
            self.failed = True
            log.error("%s", error)


def _print_table(table: Iterable[RenderableType]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for renderable in table:
        console.print(renderable, crop=False)


def _writer(output: Output, progress: Progress, flags: Flags, *, events: bool) -> Callable[[Event], None]:
    """Return the printer of events; without `events`, a table shows the result and prints none."""
    if (printer := output.event_printer()) is not None:
        return printer
    if not events:
        return lambda _event: None
    from rich.console import Console

    from arawn_cli.output.tables import Tables

    return Tables(Console(), verbose=output.verbose, sort=output.sort, first=progress.end, command=flags.command).emit
