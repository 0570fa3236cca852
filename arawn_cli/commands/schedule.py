"""`schedule show`, `install`, `remove`, `status` and `serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from arawn_cli.commands.options import BasePathOption, ConfigOption, Format, FormatOption, QuietOption, RootOption, VerboseOption

app = typer.Typer(no_args_is_help=True, help="Timers for both jobs: systemd units or cron lines, from the configuration.")

SystemdOption = Annotated[bool, typer.Option("--systemd", help="Use systemd timers; the default where systemd runs.")]
CronOption = Annotated[bool, typer.Option("--cron", help="Use cron; the default elsewhere.")]
ScopeOption = Annotated[
    bool | None, typer.Option("--user/--system", help="Timers of this account, or of the machine; the default for root is --system.")
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask, except about files that were edited by hand.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite or remove files that were edited by hand, too.")]
CloacinaOption = Annotated[bool, typer.Option("--cloacina", help="Use workflows of Cloacina, an optional extra.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="Cloacina's database, without a password. Default: SQLite in the state directory."),
]


def _is_for_cloacina(cloacina: bool, database: str | None, systemd: bool, cron: bool) -> bool:
    if cloacina and (systemd or cron):
        raise typer.BadParameter("--cloacina excludes --systemd and --cron: the jobs would run twice", param_hint="--cloacina")
    if database is not None and not cloacina:
        raise typer.BadParameter("only --cloacina has a database", param_hint="--database")
    return cloacina


@app.command("show")
def schedule_show(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    cloacina: CloacinaOption = False,
    database: DatabaseOption = None,
    user: ScopeOption = None,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print what would be installed, and change nothing."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_show

    flags = Flags(config=config, base_path=base_path, root=root)
    shown = Output(format="table", verbose=verbose, quiet=quiet)
    if _is_for_cloacina(cloacina, database, systemd, cron):
        from arawn_cli.schedule.cloacina_status import run_show_cloacina

        raise typer.Exit(run_show_cloacina(flags, shown, database))
    raise typer.Exit(run_show(flags, shown, Choice(systemd=systemd, cron=cron, user=user)))


@app.command("install")
def schedule_install(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    user: ScopeOption = None,
    yes: YesOption = False,
    force: ForceOption = False,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what would change, ask, then install the timers and start them."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_install

    choice = Choice(systemd=systemd, cron=cron, user=user, yes=yes, force=force)
    flags = Flags(config=config, base_path=base_path, root=root)
    raise typer.Exit(run_install(flags, Output(format="table", verbose=verbose, quiet=quiet), choice))


@app.command("remove")
def schedule_remove(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    user: ScopeOption = None,
    yes: YesOption = False,
    force: ForceOption = False,
    root: RootOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Stop the timers and remove what `install` installed, and nothing else."""
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_remove

    choice = Choice(systemd=systemd, cron=cron, user=user, yes=yes, force=force)
    raise typer.Exit(run_remove(Output(format="table", verbose=verbose, quiet=quiet), choice, root))


@app.command("status")
def schedule_status(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    cloacina: CloacinaOption = False,
    database: DatabaseOption = None,
    user: ScopeOption = None,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show last and next runs, and whether the timers are installed as configured. Exits with 1 if not."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_status

    flags = Flags(config=config, base_path=base_path, root=root)
    shown = Output(format=output.value, verbose=verbose, quiet=quiet)
    if _is_for_cloacina(cloacina, database, systemd, cron):
        from arawn_cli.schedule.cloacina_status import run_status_cloacina

        raise typer.Exit(run_status_cloacina(flags, shown, database))
    raise typer.Exit(run_status(flags, shown, Choice(systemd=systemd, cron=cron, user=user)))


@app.command("serve")
def schedule_serve(
    cloacina: CloacinaOption = False,
    database: DatabaseOption = None,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run both jobs when they are due, as workflows of Cloacina, in the foreground until SIGTERM; runs under way are finished first."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.serve import run_serve

    if not cloacina:
        raise typer.BadParameter("say --cloacina: there is no other engine", param_hint="--cloacina")
    raise typer.Exit(run_serve(Flags(config=config, base_path=base_path), Output(format="json", verbose=verbose, quiet=quiet), database))
