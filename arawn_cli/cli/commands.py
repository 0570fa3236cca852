"""The commands at the top: both jobs, `report`, `doctor` and `demo`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from arawn_cli.cli.options import (
    BasePathOption,
    CheckFormat,
    CheckFormatOption,
    ConfigOption,
    FailOn,
    Format,
    FormatOption,
    NoRelayOption,
    QuietOption,
    RelayUrlOption,
    RootOption,
    UnlessRunningOption,
    VerboseOption,
)

_DryRunOption = Annotated[bool | None, typer.Option("--dry-run/--no-dry-run", help="Change nothing, and say what would be removed.")]


_AGE = "Age in days from which a session is inactive. Default: as configured, else 7."


_OlderThanDaysOption = Annotated[int | None, typer.Option("--older-than-days", min=1, max=36_500, metavar="N", help=_AGE)]


_PlanOutOption = Annotated[Path | None, typer.Option("--plan-out", metavar="FILE", help="Write the plan to this file, also in a dry run.")]


_ApplyOption = Annotated[
    Path | None, typer.Option("--apply", metavar="FILE", help="Remove only sessions of this plan that are unchanged since.")
]


_ForceOption = Annotated[
    bool, typer.Option("--force", help="Go on where max_sessions, max_percent or a clock that went back stops the run.")
]


def scratch_cleanup(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    dry_run: _DryRunOption = None,
    older_than_days: _OlderThanDaysOption = None,
    plan_out: _PlanOutOption = None,
    apply: _ApplyOption = None,
    force: _ForceOption = False,
    output: FormatOption = Format.AUTO,
    relay_url: RelayUrlOption = None,
    no_relay: NoRelayOption = False,
    unless_running: UnlessRunningOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove the directories of scratch sessions that were not used for some days.

    A session is removed only if its last turn, its database row and every file in it are older than the cutoff.
    """
    from arawn_cli.cli.jobs import run_cleanup
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(
        config=config,
        base_path=base_path,
        older_than_days=older_than_days,
        dry_run=dry_run,
        force=force,
        plan_out=plan_out,
        apply=apply,
        relay_url=relay_url,
        no_relay=no_relay,
        root=root,
    )
    raise typer.Exit(run_cleanup(flags, Output(format=output.value, verbose=verbose, quiet=quiet, unless_running=unless_running)))


def disk_check(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Store and send nothing; the events say so.")] = False,
    fail_on: Annotated[FailOn | None, typer.Option("--fail-on", help="Exit with 3 if any level is this high or higher.")] = None,
    output: CheckFormatOption = CheckFormat.AUTO,
    relay_url: RelayUrlOption = None,
    no_relay: NoRelayOption = False,
    unless_running: UnlessRunningOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what every workstream uses, and report what is above its limit."""
    from arawn_cli.cli.jobs import run_check, run_check_for_nagios
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, dry_run=dry_run, relay_url=relay_url, no_relay=no_relay, root=root)
    if output is CheckFormat.NAGIOS:
        raise typer.Exit(run_check_for_nagios(flags, Output(format=output.value, verbose=verbose, quiet=quiet)))
    shown = Output(format=output.value, verbose=verbose, quiet=quiet, unless_running=unless_running)
    raise typer.Exit(run_check(flags, shown, fail_on.value if fail_on else None))


def report(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    days: Annotated[int, typer.Option("--days", min=1, max=90, metavar="N", help="Days that trends and alerts cover.")] = 14,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write one HTML page to this file instead; - is standard output.")
    ] = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show usage against limits, its trend and forecast, the scratch sessions, and what cleanup would remove next.

    It measures now and changes nothing; trends and alerts come from earlier runs of disk-check.
    """
    from arawn_cli.cli.jobs import run_report
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags
    from arawn_cli.schedule.status import history_directory

    flags = Flags(config=config, base_path=base_path, dry_run=True, no_relay=True, root=root)
    kept = partial(history_directory, flags=flags, environment=os.environ)
    raise typer.Exit(run_report(flags, Output(format="table", verbose=verbose, quiet=quiet), days, html, kept))


def doctor(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    relay_url: RelayUrlOption = None,
    no_relay: NoRelayOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look for what would keep the timers from doing their job, and say how to fix it. Changes nothing; exits with 1 if a check fails."""
    from arawn_cli.cli.doctor import run_doctor
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, relay_url=relay_url, no_relay=no_relay, root=root)
    raise typer.Exit(run_doctor(flags, Output(format=output.value, verbose=verbose, quiet=quiet)))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sample tree in place.")] = False,
) -> None:
    """Show both jobs at work on a sample tree in a temporary folder."""
    from arawn_cli.cli.demo import run_demo

    raise typer.Exit(run_demo(keep=keep))
