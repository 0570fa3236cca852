"""`trash list`, `trash restore` and `trash purge`."""

from __future__ import annotations

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
def trash_list(
    config: options.ConfigOption = None,
    base_path: options.BasePathOption = None,
    root: options.RootOption = None,
    output: options.FormatOption = options.Format.AUTO,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """List the removed sessions in the trash, oldest first."""
    flags = Flags(config=config, base_path=base_path, root=root)
    shown = options.Output(format=output, verbose=verbose, quiet=quiet)
    if shown.resolved() != "table":
        raise typer.Exit(run_job(flags, shown, list_trash).exit_code)
    run = run_job(flags, options.Output(format="none", verbose=verbose, quiet=quiet), list_trash)
    if run.result is not None and (run.result.entries or run.exit_code is ExitCode.DONE):
        from arawn_cli.output.tables import print_trash

        print_trash(run.result.entries)
    raise typer.Exit(run.exit_code)


@app.command("restore")
def trash_restore(
    session: Annotated[str, typer.Argument(metavar="ID", autocompletion=options.removed_sessions, help="Id of the removed session.")],
    config: options.ConfigOption = None,
    base_path: options.BasePathOption = None,
    root: options.RootOption = None,
    output: options.FormatOption = options.Format.AUTO,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Move a removed session back into its place; nothing there is overwritten.

    Restoring counts as a use: the next cleanup keeps the session for the configured days.
    """
    flags = Flags(config=config, base_path=base_path, dry_run=False, root=root)
    run = run_job(flags, options.Output(format=output, verbose=verbose, quiet=quiet), partial(restore, session=session))
    raise typer.Exit(run.exit_code)


@app.command("purge")
def trash_purge(
    older_than_days: Annotated[
        int, typer.Option("--older-than-days", min=0, max=36_500, metavar="N", help="Purge only sessions removed more than N days ago.")
    ] = 0,
    config: options.ConfigOption = None,
    base_path: options.BasePathOption = None,
    root: options.RootOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Show what would be purged, and change nothing.")] = False,
    output: options.FormatOption = options.Format.AUTO,
    verbose: options.VerboseOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Delete removed sessions from the trash for good, and free their space."""
    flags = Flags(config=config, base_path=base_path, dry_run=dry_run, root=root)
    shown = options.Output(format=output, verbose=verbose, quiet=quiet)
    run = run_job(flags, shown, partial(purge_trash, older_than_days=older_than_days))
    if run.result is not None and not run.result.entries and run.exit_code is ExitCode.DONE and shown.resolved() == "table":
        typer.echo("Nothing to purge.")
    raise typer.Exit(run.exit_code)
