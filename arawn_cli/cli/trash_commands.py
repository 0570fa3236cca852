"""`trash list`, `trash restore` and `trash purge`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from arawn_cli.cleanup.trash_jobs import list_trash, purge_trash, restore
from arawn_cli.cli import options
from arawn_cli.cli.runner import run_job
from arawn_cli.config.loader import Flags
from arawn_cli.errors import ExitCode

app = typer.Typer(no_args_is_help=True, help="List, restore or purge removed sessions.")


@app.command("list")
@options.with_options(*options.LOCATION, "format", *options.LOGGING)
def trash_list(flags: Flags, output: options.Output) -> None:
    """List the removed sessions in the trash, oldest first."""
    if output.resolved() != "table":
        raise typer.Exit(run_job(flags, output, list_trash).exit_code)
    run = run_job(flags, replace(output, format="none"), list_trash)
    if run.result is not None and (run.result.entries or run.exit_code is ExitCode.DONE):
        from arawn_cli.output.tables import print_trash

        print_trash(run.result.entries)
    raise typer.Exit(run.exit_code)


@app.command("restore")
@options.with_options(*options.LOCATION, "format", *options.LOGGING)
def trash_restore(
    flags: Flags,
    output: options.Output,
    session: Annotated[str, typer.Argument(metavar="ID", autocompletion=options.removed_sessions, help="Id of the removed session.")],
) -> None:
    """Move a removed session back into its place; nothing there is overwritten.

    Restoring counts as a use: the next cleanup keeps the session for the configured days.
    """
    run = run_job(replace(flags, dry_run=False), output, partial(restore, session=session))
    raise typer.Exit(run.exit_code)


@app.command("purge")
@options.with_options(*options.LOCATION, "format", *options.LOGGING)
def trash_purge(
    flags: Flags,
    output: options.Output,
    older_than_days: Annotated[
        int, typer.Option("--older-than-days", min=0, max=36_500, metavar="N", help="Purge only sessions removed more than N days ago.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Show what would be purged, and change nothing.")] = False,
) -> None:
    """Delete removed sessions from the trash for good, and free their space."""
    run = run_job(replace(flags, dry_run=dry_run), output, partial(purge_trash, older_than_days=older_than_days))
    if run.result is not None and not run.result.entries and run.exit_code is ExitCode.DONE and output.resolved() == "table":
        typer.echo("Nothing to purge.")
    raise typer.Exit(run.exit_code)
