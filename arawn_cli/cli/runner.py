"""Run a job.

Load the configuration, open what the job needs, run it, deliver its events, write its metrics, and
derive the exit code.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from arawn_cli.cli.options import Output
from arawn_cli.cli.process import Signals, lower_priority
from arawn_cli.cli.terminal import configure_logging, progress_for
from arawn_cli.config.loader import Config, Flags, load
from arawn_cli.context import EventOutbox, Progress, RunContext
from arawn_cli.errors import ArawnCliError, ExitCode, LockedError, OutputLostError, StoppedError, log_error
from arawn_cli.events import Event
from arawn_cli.output.jsonl import print_event
from arawn_cli.state import State

log = logging.getLogger(__name__)


class JobResult(Protocol):
    """The one value that a job returns; output, metrics and the exit code derive from it."""

    @property
    def exit_code(self) -> ExitCode:
        """Return the exit code that the result alone implies."""


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


def run_job(flags: Flags, output: Output, job: Callable[[Config, RunContext], Result], *, unless_running: bool = False) -> JobRun[Result]:
    """Run a job and return how it ended; errors are logged and become the exit code.

    With `unless_running`, a run that finds another one in progress ends with exit code 0, and no
    error is logged.
    """
    configure_logging(output)
    run: JobRun[Result] = JobRun()
    signals = Signals()
    try:
        config = load(flags, os.environ)
        lower_priority(config.maintenance)
        with signals.caught(), progress_for(output) as progress, closing(State(config.state_directory, time.time_ns)) as state:
            standard_output = EventOutput(_writer(output, progress))
            delivery = None
            if config.relay is not None:
                from arawn_cli.delivery.sending import delivery_for  # not imported without a relay

                delivery = delivery_for(config, config.relay, os.environ, state, signals.stopping)
            context = RunContext(
                state=state,
                show=standard_output.emit,
                outbox=delivery or EventOutbox(),
                progress=progress,
                stopping=signals.stopping,
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
    return run


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


def _writer(output: Output, progress: Progress) -> Callable[[Event], None]:
    """Return what prints one event in the format of the command line."""
    match output.resolved():
        case "table":
            from rich.console import Console

            from arawn_cli.output.tables import Tables

            return Tables(Console(), verbose=output.verbose, first=progress.end).emit
        case "json":
            return print_event
        case "none":
            return lambda _event: None
        case other:
            raise ValueError(f"no output prints the format {other}")
