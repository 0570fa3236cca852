"""`trash list`, `restore` and `purge`."""

from __future__ import annotations

from typing import Annotated

import typer

from arawn_cli.cli.options import (
    BasePathOption,
    ConfigOption,
    Format,
    FormatOption,
    QuietOption,
    RootOption,
    VerboseOption,
    removed_sessions,
)

app = typer.Typer(no_args_is_help=True, help="Sessions that cleanup removed and that are not purged yet: list, restore, purge.")


@app.command("list")
def trash_list(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the removed sessions in the trash, oldest first."""
    from arawn_cli.cli.jobs import run_trash_list
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, root=root)
    raise typer.Exit(run_trash_list(flags, Output(format=output.value, verbose=verbose, quiet=quiet)))


@app.command("restore")
def trash_restore(
    session: Annotated[str, typer.Argument(metavar="ID", autocompletion=removed_sessions, help="Id of the removed session.")],
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Move a removed session back into its place; nothing there is overwritten.

    Restoring counts as a use: the next cleanup keeps the session for the configured days.
    """
    from arawn_cli.cli.jobs import run_trash_restore
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, dry_run=False, root=root)
    raise typer.Exit(run_trash_restore(flags, Output(format=output.value, verbose=verbose, quiet=quiet), session))


@app.command("purge")
def trash_purge(
    older_than_days: Annotated[
        int, typer.Option("--older-than-days", min=0, max=36_500, metavar="N", help="Purge only sessions removed more than N days ago.")
    ] = 0,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Change nothing, and say what would be purged.")] = False,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Delete removed sessions from the trash for good, and free their space."""
    from arawn_cli.cli.jobs import run_trash_purge
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, dry_run=dry_run, root=root)
    raise typer.Exit(run_trash_purge(flags, Output(format=output.value, verbose=verbose, quiet=quiet), older_than_days))
