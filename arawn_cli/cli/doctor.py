"""`doctor`."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arawn_cli import timestamps
from arawn_cli.cli import options
from arawn_cli.cli.account import load_as_owner
from arawn_cli.cli.config import print_settings, show_settings
from arawn_cli.cli.terminal import configure_logging
from arawn_cli.command_events import DoctorCheck, DoctorSummary, Status
from arawn_cli.config.loader import Flags, Setting, settings_of
from arawn_cli.config.lookup import RootNotFoundError
from arawn_cli.doctor.environment import (
    account_finding,
    clock_finding,
    configuration_findings,
    metrics_finding,
    notify_findings,
    outbox_findings,
    ping_findings,
    relay_findings,
    state_findings,
)
from arawn_cli.doctor.findings import Finding, comment, fail, warn
from arawn_cli.doctor.timers import run_command, timer_findings
from arawn_cli.doctor.tree import tree_findings
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import Event, JobName
from arawn_cli.schedule.settings import Shell, own_account
from arawn_cli.schedule.status import FIRST_RUN, installed_schedules
from arawn_cli.units import count

_ORDER = (Status.FAIL, Status.WARN, Status.OK)
_UNWRAPPED = 100_000  # columns of output without a terminal
_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


@options.with_options(*options.LOCATION, "format", *options.RELAY, *options.LOGGING)
def doctor(
    flags: Flags,
    output: options.Output,
    notify_test: Annotated[bool, typer.Option("--notify-test", help="Send a test message to each address of maintenance.notify.")] = False,
) -> None:
    """Find problems that stop the timers, and print a fix for each.

    It changes nothing. The exit code is 1 if a check fails.
    """
    raise typer.Exit(run_doctor(flags, output, notify_test=notify_test))


def run_doctor(flags: Flags, output: options.Output, *, notify_test: bool = False) -> ExitCode:
    """Run all checks and print their findings; return PARTIAL if one fails."""
    configure_logging(output)
    settings: list[Setting] = []
    try:
        config = load_as_owner(flags)
        settings = settings_of(config, os.environ)
        found = _findings(Shell(config, flags, os.environ), notify_test=notify_test)
        findings = [replace(each, fix=each.fix and flags.typed(each.fix)) for each in found]
    except RootNotFoundError as error:
        findings = [fail("root", str(error), comment("set [maintenance] root, or try arawn-cli doctor --base-path PATH"))]
    except ArawnCliError as error:
        fix = "fix the file, or choose another with --config or a root with --base-path; the other checks depend on it"
        findings = [fail("configuration", str(error), comment(fix))]
    if (show := output.event_printer()) is not None:
        _show_events(settings, findings, flags.root, show)
    else:
        _print_text(settings if output.verbose else [], findings)
    return ExitCode.PARTIAL if any(finding.status is Status.FAIL for finding in findings) else ExitCode.DONE


def _findings(shell: Shell, *, notify_test: bool) -> Iterator[Finding]:
    config, now = shell.config, time.time_ns()
    yield account_finding()
    yield from configuration_findings(shell)
    tree = list(tree_findings(config, now, shell))
    yield from tree
    root_fails = any(finding.check == "root" and finding.status is Status.FAIL for finding in tree)
    installed = [] if root_fails else installed_schedules(config, shell.environment)
    # State and outbox are those of the timers, if there are any.
    directory = installed[0].state_directory if installed else config.state_directory
    account = installed[0].settings.account if installed else own_account(os.geteuid())
    run_check = run_command(installed[0], JobName.DISK_CHECK, shell) if installed else shell.arawn_cli(JobName.DISK_CHECK)
    created_by = installed[0].creates_state if installed else FIRST_RUN
    yield from state_findings(directory, account, shell, created_by=created_by)
    if config.metrics_directory is not None:
        yield metrics_finding(config.metrics_directory, account, shell)
    yield from outbox_findings(directory, account, shell, run_check)
    yield from relay_findings(config, shell)
    yield from ping_findings(config)
    yield from notify_findings(config, directory, shell, run_check, test=notify_test)
    yield clock_finding(shell)
    if root_fails:
        yield warn("timers", "not checked: the root is unusable", comment("fix the root first"))
    else:
        yield from timer_findings(installed, now, shell)


def _print_text(settings: list[Setting], findings: list[Finding]) -> None:
    """Print the number of problems, then each finding with its fix, problems first."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _UNWRAPPED)
    numbers = {status: sum(finding.status is status for finding in findings) for status in Status}
    counts = [count(numbers[Status.FAIL], "problem"), count(numbers[Status.WARN], "warning")]
    console.print(Text(", ".join([*(text for text in counts if text[0] != "0"), f"{numbers[Status.OK]} ok"]), style="bold"))
    for finding in sorted(findings, key=lambda finding: _ORDER.index(finding.status)):
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(Text(f"{finding.status.value:<4}", style=_STYLES[finding.status]), Text(f"{finding.check}: {finding.detail}"))
        console.print(grid)
        if finding.fix is not None:
            console.print(Text(f"      {finding.fix}", style="cyan"), soft_wrap=True)
    if settings:
        console.print()
        print_settings(settings, console)


def _show_events(settings: list[Setting], findings: list[Finding], root: str | None, show: Callable[[Event], None]) -> None:
    show_settings(settings, root, show)
    timestamp, host = timestamps.render(time.time_ns()), socket.gethostname()
    check = partial(DoctorCheck, timestamp=timestamp, host=host, root=root, dry_run=False)
    for finding in findings:
        show(check(check=finding.check, status=finding.status, detail=finding.detail, fix=finding.fix))
    passed, warned, failed = (sum(finding.status is status for finding in findings) for status in Status)
    show(DoctorSummary(timestamp=timestamp, host=host, root=root, dry_run=False, ok=passed, warn=warned, fail=failed))
