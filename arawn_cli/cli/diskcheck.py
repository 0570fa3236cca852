"""`disk-check`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from arawn_cli.cli import options
from arawn_cli.cli.runner import run_job
from arawn_cli.config.loader import Config, Flags
from arawn_cli.context import RunContext
from arawn_cli.diskcheck.job import CheckResult, check, levels_log
from arawn_cli.errors import ExitCode
from arawn_cli.events import JobName, Level
from arawn_cli.units import count

if TYPE_CHECKING:
    from rich.console import RenderableType

log = logging.getLogger(__name__)


class FailOn(str, Enum):
    """The level from which on disk-check exits with 3."""

    WARNING = "warning"
    CRITICAL = "critical"


class Parked(str, Enum):
    """What to do with events that were refused for good."""

    RETRY = "retry"
    DROP = "drop"


@options.with_options(*options.LOCATION, "check_format", *options.RELAY, *options.LOGGING)
def disk_check(
    flags: Flags,
    output: options.Output,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", "-n", help="Measure only: save nothing and send nothing.")] = False,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", metavar="LEVEL", help="Exit with 3 from this level on: warning or critical.")
    ] = None,
    unless_running: options.UnlessRunningOption = False,
    parked: Annotated[
        Parked | None,
        typer.Option("--parked", metavar="retry|drop", help="Resend or drop events that the relay refused for good."),
    ] = None,
) -> None:
    """Measure each workstream and report what exceeds its limit."""
    flags = replace(flags, dry_run=dry_run)
    if output.format in (options.Format.TABLE, options.Format.NAGIOS):
        levels_log.setLevel(logging.ERROR)  # the output shows the changes of level already
    if output.format is options.Format.NAGIOS:
        if fail_on is not None or unless_running:
            raise typer.BadParameter("--format nagios excludes --fail-on and --unless-running: its exit code is the status")
        from arawn_cli.output import nagios

        job = partial(_check, parked=parked, fail_on=None)
        run = run_job(flags, output, job, name=JobName.DISK_CHECK)
        line, return_code = nagios.status(run.result, run.problems)
        typer.echo(line)
        raise typer.Exit(return_code)
    job = partial(_check, parked=parked, fail_on=None if fail_on is None else Level(fail_on.value))
    run = run_job(
        flags, output, job, name=JobName.DISK_CHECK, unless_running=unless_running, table=partial(_table, flags=flags, output=output)
    )
    if run.result is not None and run.result.starts_cleanup and not run.is_stopped:
        run.exit_code = max(run.exit_code, _start_cleanup(flags, output))
    raise typer.Exit(run.exit_code)


def _check(config: Config, context: RunContext, *, parked: Parked | None, fail_on: Level | None) -> CheckResult:
    """Resend or drop the parked events if that was asked for, and check the root."""
    if parked is not None and not config.dry_run:
        from arawn_cli.delivery.outbox import drop_parked, retry_parked  # not imported by most checks

        if parked is Parked.RETRY:
            log.info("%s to be sent again", count(retry_parked(context.state), "parked event"))
        else:
            log.info("%s dropped", count(drop_parked(context.state), "parked event"))
    return check(config, context, fail_on=fail_on)


def _table(result: CheckResult, flags: Flags, output: options.Output) -> Iterable[RenderableType]:
    from arawn_cli.output.report_text import check_renderables  # only for a table

    return check_renderables(result, flags.command, verbose=output.verbose)


def _start_cleanup(flags: Flags, output: options.Output) -> ExitCode:
    """Start the cleanup that a check found necessary, and return its exit code.

    The unit of a check may not remove anything. It names a file, at whose change systemd starts the
    cleanup's own unit.
    """
    # Imported here: most checks start no cleanup.
    from arawn_cli.cli.cleanup import clean_as_agreed
    from arawn_cli.schedule.settings import REQUEST_VARIABLE

    request = os.environ.get(REQUEST_VARIABLE)
    if not request:
        job = partial(clean_as_agreed, output=output)
        return run_job(replace(flags, dry_run=None), output, job, name=JobName.SCRATCH_CLEANUP, unless_running=True).exit_code
    try:
        os.close(os.open(request, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        log.error("cannot start the cleanup: %s: %s", request, error.strerror)
        return ExitCode.PARTIAL
    log.info("a level turned critical: systemd starts scratch-cleanup")
    return ExitCode.DONE
