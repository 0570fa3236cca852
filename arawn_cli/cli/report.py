"""`report`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType

from arawn_cli import timestamps
from arawn_cli.cli.options import LOCATION, LOGGING, Format, Output, with_options
from arawn_cli.cli.runner import run_job
from arawn_cli.config.loader import Config, Flags
from arawn_cli.context import RunContext
from arawn_cli.errors import ArawnCliError
from arawn_cli.events import JobName
from arawn_cli.fs.files import AtomicFile
from arawn_cli.output.report_data import Report, gather
from arawn_cli.output.stdout import print_report
from arawn_cli.schedule.settings import Shell
from arawn_cli.schedule.status import installed_schedules, statuses, unread_state_problem

_STANDARD_OUTPUT = "-"
_READABLE = 0o644


@with_options(*LOCATION, "report_format", *LOGGING)
def report(
    flags: Flags,
    output: Output,
    days: Annotated[int, typer.Option("--days", min=1, max=90, metavar="N", help="Days that trends and alerts cover.")] = 14,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write one HTML page to this file; - is standard output.")
    ] = None,
) -> None:
    """Show usage, trends, forecasts and removable sessions.

    It measures now and changes nothing. Trends and alerts come from earlier runs of disk-check.
    """
    as_json = output.format is Format.JSON
    is_complete = html is not None or as_json
    if html is not None and as_json:
        raise typer.BadParameter("excludes --format json", param_hint="--html")
    flags = replace(flags, dry_run=True, no_relay=True)
    file: AtomicFile | None = None

    def job(config: Config, context: RunContext) -> Report:
        """Gather the report. Say whether timers keep a history that this account cannot read."""
        nonlocal file
        file = None if path is None else AtomicFile(path, "the report")  # fails before measuring
        problem = unread_state_problem(config, flags, context.environment)
        next_runs = _next_runs(config, flags, context) if is_complete else {}
        return gather(config, context, days, [problem] if problem else [], search=is_complete, next_runs=next_runs)

    path = None if html in (None, _STANDARD_OUTPUT) else Path(html)
    table = partial(_table, flags=flags, verbose=output.verbose) if html is None else None
    run = run_job(flags, output, job, outputs={} if path is None else {path: _READABLE}, table=table)
    if run.result is not None and as_json:
        print_report(run.result)
    elif run.result is not None and html is not None:
        _write_page(run.result, file, flags)
    raise typer.Exit(run.exit_code)


def _next_runs(config: Config, flags: Flags, context: RunContext) -> dict[JobName, int]:
    """Return the next run of each job, as far as an installed schedule knows it."""
    found: dict[JobName, int] = {}
    with suppress(ArawnCliError):  # `doctor` and `schedule status` report the faults of a schedule
        for schedule in installed_schedules(config, context.environment):
            for status in statuses(schedule, context.clock(), Shell(config, flags, context.environment)):
                if status.event.next_run is not None:
                    found.setdefault(status.event.job, timestamps.parse(status.event.next_run))
    return found


def _table(report: Report, *, flags: Flags, verbose: bool) -> Iterable[RenderableType]:
    from arawn_cli.output.report_text import renderables  # only for a table

    return renderables(report, flags.command, verbose=verbose)


def _write_page(report: Report, file: AtomicFile | None, flags: Flags) -> None:
    """Write the report as a page to the file, or print it without one."""
    from arawn_cli.output.report_html import page

    if file is not None:
        file.write(page(report, flags.command))
        return
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # as the page declares
    sys.stdout.write(page(report, flags.command))
