"""`disk-check`."""

from __future__ import annotations

import logging
from enum import Enum
from typing import Annotated

import typer

from arawn_cli.cli import options
from arawn_cli.cli.runner import run_job
from arawn_cli.config.loader import Flags
from arawn_cli.diskcheck.job import check, levels_log
from arawn_cli.diskcheck.levels import reaches
from arawn_cli.errors import ExitCode
from arawn_cli.events import Level


class CheckFormat(str, Enum):
    """How the results of a disk check are printed."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    NAGIOS = "nagios"
    NONE = "none"


class FailOn(str, Enum):
    """The level from which on disk-check exits with 3."""

    WARNING = "warning"
    CRITICAL = "critical"


def disk_check(
    config: options.ConfigOption = None,
    base_path: options.BasePathOption = None,
    root: options.RootOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Do not save or send anything.")] = False,
    fail_on: Annotated[FailOn | None, typer.Option("--fail-on", help="Exit with 3 if any level is this high or higher.")] = None,
    output: Annotated[
        CheckFormat,
        typer.Option("--format", help=f"{options.FORMATS} nagios: one status line; exit 0 ok, 1 warning, 2 critical, 3 unknown."),
    ] = CheckFormat.AUTO,
    relay_url: options.RelayUrlOption = None,
    no_relay: options.NoRelayOption = False,
    unless_running: options.UnlessRunningOption = False,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Measure each workstream's disk usage and report what exceeds its limit."""
    flags = Flags(config=config, base_path=base_path, dry_run=dry_run, relay_url=relay_url, no_relay=no_relay, root=root)
    shown = options.Output(format=output, verbose=verbose, quiet=quiet)
    if shown.resolved() in ("table", "nagios"):
        levels_log.setLevel(logging.ERROR)  # the output shows the changes of level already
    if output is CheckFormat.NAGIOS:
        if fail_on is not None or unless_running:
            raise typer.BadParameter("--format nagios excludes --fail-on and --unless-running: its exit code is the status")
        from arawn_cli.output import nagios

        run = run_job(flags, options.Output(format="none", verbose=verbose, quiet=quiet), check)
        line, return_code = nagios.status(run.result, run.problems)
        typer.echo(line)
        raise typer.Exit(return_code)
    run = run_job(flags, shown, check, unless_running=unless_running)
    if (
        fail_on is not None
        and run.result is not None
        and reaches(run.result.summary.level, Level(fail_on.value))
        # A lost event or a signal outweighs the level, an incomplete measurement does not.
        and run.exit_code in (ExitCode.DONE, ExitCode.PARTIAL)
    ):
        raise typer.Exit(ExitCode.LEVEL_REACHED)
    raise typer.Exit(run.exit_code)
