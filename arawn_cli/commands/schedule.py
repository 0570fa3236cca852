"""`schedule show`, `install`, `remove` and `status`."""

from __future__ import annotations

from typing import Annotated

import typer

from arawn_cli.commands.options import BasePathOption, ConfigOption, Format, FormatOption, QuietOption, RootOption, VerboseOption

app = typer.Typer(no_args_is_help=True, help="Timers for both jobs: systemd units or crontab lines from the configuration.")

SystemdOption = Annotated[bool, typer.Option("--systemd", help="systemd timers; the default where systemd runs.")]
CronOption = Annotated[bool, typer.Option("--cron", help="Lines for cron; the default elsewhere.")]
ScopeOption = Annotated[
    bool | None, typer.Option("--user/--system", help="This account's own timers, or the machine's, which are the default for root.")
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing about files that the tool wrote.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Lose what was edited by hand, too.")]


@app.command("show")
def schedule_show(
    systemd: SystemdOption = False,
    cron: CronOption = False,
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

    raise typer.Exit(run_show(Flags(config, base_path, root=root), Output("table", verbose, quiet), Choice(systemd, cron, user)))


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
    """Install the timers and start them, after a look at what changes."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_install

    choice = Choice(systemd, cron, user, yes, force)
    raise typer.Exit(run_install(Flags(config, base_path, root=root), Output("table", verbose, quiet), choice))


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
    """Stop the timers and take away what `install` brought, and nothing else."""
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_remove

    raise typer.Exit(run_remove(Output("table", verbose, quiet), Choice(systemd, cron, user, yes, force), root))


@app.command("status")
def schedule_status(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    user: ScopeOption = None,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show when the jobs ran and will run, and whether what is installed is what the configuration says. Exits with 1 if not."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.command import Choice, run_status

    raise typer.Exit(run_status(Flags(config, base_path, root=root), Output(output.value, verbose, quiet), Choice(systemd, cron, user)))
