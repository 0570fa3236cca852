"""`scratch-cleanup`, and `trash list`, `restore` and `purge`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arawn_cli.cleanup.job import CleanupResult, clean
from arawn_cli.cleanup.plan_file import PLAN_MODE, STANDARD_STREAM, PlannedSession, approval
from arawn_cli.cleanup.trash_jobs import TrashResult, list_trash, purge_trash, restore
from arawn_cli.cli import options
from arawn_cli.cli.runner import run_job
from arawn_cli.cli.terminal import can_ask, confirmed, is_interactive, no_warning_twice
from arawn_cli.config.loader import Config, Flags
from arawn_cli.config.lookup import ignored_config_warning
from arawn_cli.context import RunContext
from arawn_cli.errors import DeclinedError, ExitCode, RefusedError, StateUnavailableError
from arawn_cli.events import Event, JobName, Reason
from arawn_cli.output.stdout import print_text
from arawn_cli.problems import persistent
from arawn_cli.runs import read as read_run
from arawn_cli.units import count

if TYPE_CHECKING:
    from rich.console import RenderableType

log = logging.getLogger(__name__)

app = typer.Typer(no_args_is_help=True, help="List, restore or purge removed sessions.")


@options.with_options(*options.LOCATION, "format", *options.RELAY, *options.LOGGING)
def scratch_cleanup(
    flags: Flags,
    output: options.Output,
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="SESSION", help="Examine only these sessions; with -n, explain each.")
    ] = None,
    dry_run: options.DryRunOption = None,
    ask: Annotated[bool, typer.Option("--ask", help="Show a table, ask, then remove exactly those sessions.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Never ask, even in the first run on this root.")] = False,
    older_than_days: Annotated[
        int | None, typer.Option("--older-than-days", min=1, max=36_500, metavar="N", help="Remove sessions unused for N days.")
    ] = None,
    plan_out: Annotated[
        Path | None, typer.Option("--plan-out", metavar="FILE", help="Write the plan to this file; - is standard output.")
    ] = None,
    apply: Annotated[Path | None, typer.Option("--apply", metavar="FILE", help="Remove only unchanged sessions of this plan.")] = None,
    sort: Annotated[
        options.Sort, typer.Option("--sort", metavar="age|size", help="Order of the table: oldest or largest first.")
    ] = options.Sort.AGE,
    force: Annotated[bool, typer.Option("--force", help="Ignore max_sessions, max_percent and the clock check.")] = False,
    unless_running: options.UnlessRunningOption = False,
) -> None:
    """Remove scratch sessions unused for a number of days.

    A session is removed only if its last turn, its database row and every file in it are older than
    the cutoff. On a terminal, the first run on a root lists the sessions to remove and asks.
    """
    if ask and not can_ask(output):
        raise typer.BadParameter("needs a terminal, and the format table", param_hint="--ask")
    if ask and (yes or apply is not None or plan_out == STANDARD_STREAM):
        raise typer.BadParameter("excludes --yes, --apply and --plan-out -", param_hint="--ask")
    output = replace(output, sort=sort.value)
    if plan_out == STANDARD_STREAM:  # which carries the plan alone
        output = replace(output, format=options.Format.NONE)
    elif sessions and output.format is options.Format.TABLE:
        output = replace(output, verbose=True)
    flags = replace(flags, older_than_days=older_than_days, dry_run=dry_run, force=force, plan_out=plan_out, apply=apply)

    def job(config: Config, context: RunContext) -> CleanupResult:
        if problem := ignored_config_warning(config.root, config.file, on_purpose=flags.config is not None):
            log.warning("%s", problem, extra=persistent("ignored configuration"))
        return clean_as_agreed(config, context, output, sessions or (), ask=ask, yes=yes)

    outputs = {} if plan_out is None or plan_out == STANDARD_STREAM else {plan_out: PLAN_MODE}
    # A run on some sessions is not the one that somebody waits for.
    name = None if sessions else JobName.SCRATCH_CLEANUP
    run = run_job(flags, output, job, name=name, unless_running=unless_running, outputs=outputs)
    if plan_out == STANDARD_STREAM and run.result is not None:
        print_text(run.result.plan_text)
    raise typer.Exit(run.exit_code)


def clean_as_agreed(
    config: Config, context: RunContext, output: options.Output, sessions: Sequence[str] = (), *, ask: bool = False, yes: bool = False
) -> CleanupResult:
    """Run the cleanup. Ask first with `ask`, or in the first run at a terminal without `yes`.

    Raises:
        DeclinedError, RefusedError: as `_agreed`.
    """
    asks = not config.dry_run and (ask or (not yes and config.apply is None and can_ask(output) and _is_first(config, context)))
    if not asks:
        return clean(config, context, only=sessions)
    with no_warning_twice():
        approved = _agreed(config, context, sessions)
        return clean(config, context, only=sessions, approved=approved)


def _is_first(config: Config, context: RunContext) -> bool:
    """Whether no cleanup of this root is recorded, as far as can be known."""
    try:
        return read_run(context.state, JobName.SCRATCH_CLEANUP, config.root.resolve()) is None
    except StateUnavailableError:
        return True


def _agreed(config: Config, context: RunContext, sessions: Sequence[str]) -> Mapping[str, PlannedSession]:
    """Show the sessions to remove, ask, and return the approval; without any, do not ask.

    Raises:
        DeclinedError: the answer is no.
        RefusedError: more is due than the removal limit allows.
    """
    events: list[Event] = []
    quiet = replace(context, show=events.append, outboxes=())
    planned = clean(replace(config, dry_run=True, plan_out=None), quiet, only=sessions)
    if Reason.REMOVAL_LIMIT in planned.summary.sessions_kept:
        for event in events:
            context.show(event)
        raise RefusedError("nothing was removed, because of the removal limit")
    if not planned.summary.sessions_cleaned:
        return {}  # a session that becomes due now was not shown
    for event in events:
        context.show(event)
    if not confirmed(f"Remove {count(planned.summary.sessions_cleaned, 'session')}?"):
        raise DeclinedError("nothing was removed")
    return approval(planned.removed)


@app.command("list")
@options.with_options(*options.LOCATION, "format", *options.LOGGING)
def trash_list(
    flags: Flags,
    output: options.Output,
    everything: Annotated[bool, typer.Option("--all", help="Also list purged sessions of the last year, and all reasons.")] = False,
) -> None:
    """List removed sessions, oldest first, and the time from which cleanup purges each."""
    flags = replace(flags, no_relay=True)  # events that wait for the relay are the business of the jobs
    run = run_job(flags, output, partial(list_trash, everything=everything), table=_trash_table)
    raise typer.Exit(run.exit_code)


def _trash_table(result: TrashResult) -> Iterable[RenderableType]:
    from arawn_cli.output.tables import trash_renderables  # only for a table

    return trash_renderables(result)


IdsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ID", autocompletion=options.removed_sessions, help="Ids of removed sessions.")
]


@app.command("restore")
@options.with_options(*options.LOCATION, "format", *options.LOGGING)
def trash_restore(
    flags: Flags,
    output: options.Output,
    sessions: IdsArgument = None,
    last: Annotated[bool, typer.Option("--last", help="Restore the sessions of the last cleanup that removed any.")] = False,
) -> None:
    """Move removed sessions back to their place, without overwriting anything.

    A restored session counts as used now.
    """
    if bool(sessions) == last:
        raise typer.BadParameter("name the sessions, or add --last: `trash list` lists the sessions there", param_hint="ID")
    run = run_job(replace(flags, dry_run=False), output, partial(restore, sessions=sessions or (), last=last))
    raise typer.Exit(run.exit_code)


@app.command("purge")
@options.with_options(*options.LOCATION, "format", *options.LOGGING)
def trash_purge(
    flags: Flags,
    output: options.Output,
    sessions: IdsArgument = None,
    older_than_days: Annotated[
        int | None,
        typer.Option("--older-than-days", min=0, max=36_500, metavar="N", help="Purge sessions removed more than N days ago."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Purge all removed sessions.")] = False,
    dry_run: options.DryRunOption = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Delete removed sessions permanently, and free their space.

    On a terminal, it lists them and asks first.
    """
    if [bool(sessions), older_than_days is not None, everything].count(True) != 1:
        raise typer.BadParameter("give one of: the ids of the sessions, --older-than-days, --all", param_hint="ID")
    asks = not yes and not dry_run and is_interactive()
    purge = partial(_purge_as_agreed, output=output) if asks else purge_trash
    job = partial(purge, sessions=sessions or (), older_than_days=older_than_days or 0)
    run = run_job(replace(flags, dry_run=bool(dry_run)), output, job)
    if run.result is not None and not run.result.entries and run.exit_code is ExitCode.DONE and output.format is options.Format.TABLE:
        typer.echo("Nothing to purge.")
    raise typer.Exit(run.exit_code)


def _purge_as_agreed(
    config: Config, context: RunContext, output: options.Output, sessions: Sequence[str], older_than_days: int
) -> TrashResult:
    """Show the sessions to purge, ask, and purge them; without any, do not ask."""
    is_table = output.format is options.Format.TABLE
    with no_warning_twice():
        quiet = replace(context, outboxes=(), show=context.show if is_table else lambda _event: None)
        planned = purge_trash(replace(config, dry_run=True), quiet, sessions, older_than_days)
        if not planned.entries:
            return planned
        context.progress.end()
        if not confirmed(f"Delete {count(len(planned.entries), 'session')} for good?"):
            typer.echo("Nothing purged.", err=not is_table)
            return replace(planned, succeeded=True)
        return purge_trash(config, context, sessions, older_than_days, approved={entry.path for entry in planned.entries})
