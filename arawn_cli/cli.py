"""The commands: parse, compose, choose the exit code.

Start-up matters for a command that runs 288 times a day: what only one command needs is imported in it.
"""

from __future__ import annotations

import os
import sys
from enum import Enum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from arawn_cli import __version__
from arawn_cli.errors import ExitCode

app = typer.Typer(
    name="arawn-cli",
    help="Clean up after an Arawn server and watch the disk that it fills.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(str, Enum):
    """How results are printed."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"
    NONE = "none"


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


def _one_root(context: typer.Context, value: str | None) -> str | None:
    """Refuses a second way to say the root; whichever of both options comes last finds the other."""
    if value is not None and any(context.params.get(name) is not None for name in ("base_path", "root")):
        raise typer.BadParameter("--root and --base-path exclude each other")
    return value


ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="PATH", help="Configuration file to read.")]
BasePathOption = Annotated[
    str | None,
    typer.Option("--base-path", metavar="PATH", callback=_one_root, help="Arawn's root, the folder that holds workstreams/."),
]
RootOption = Annotated[
    str | None,
    typer.Option("--root", metavar="NAME", callback=_one_root, help="A root by its name in maintenance.roots, instead of the main root."),
]
VerboseOption = Annotated[bool, typer.Option("-v", "--verbose", help="Log and list more.")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Log errors only, show no progress.")]
RelayUrlOption = Annotated[
    str | None, typer.Option("--relay-url", metavar="URL", help="Relay that gets the events, instead of the configured one.")
]
NoRelayOption = Annotated[bool, typer.Option("--no-relay", help="Send nothing to a relay, and store nothing for it.")]
UnlessRunningOption = Annotated[
    bool, typer.Option("--unless-running", help="For timers: while another run is at work, do nothing and say nothing; exit 75.")
]
FormatOption = Annotated[
    Format, typer.Option("--format", help="json: one event a line. table: for people. auto: table on a terminal, else json.")
]

CheckFormatOption = Annotated[
    CheckFormat,
    typer.Option("--format", help="As for scratch-cleanup; nagios: one status line, exit 0 ok, 1 warning, 2 critical, 3 unknown."),
]


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="With --version: show what it runs on, too.")] = False,
) -> None:
    """Clean up after an Arawn server and watch the disk that it fills."""
    if version:
        typer.echo(f"arawn-cli {__version__}")
        if verbose:
            from arawn_cli.usage import means_of_measuring

            typer.echo(f"Python {sys.version.split()[0]}\n{means_of_measuring()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


@app.command("scratch-cleanup")
def scratch_cleanup(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    dry_run: Annotated[bool | None, typer.Option("--dry-run/--no-dry-run", help="Change nothing, and say what would be removed.")] = None,
    older_than_days: Annotated[
        int | None, typer.Option("--older-than-days", min=1, max=36_500, metavar="N", help="Age from which a session is inactive.")
    ] = None,
    plan_out: Annotated[
        Path | None, typer.Option("--plan-out", metavar="FILE", help="Write the plan to this file, also in a dry run.")
    ] = None,
    apply: Annotated[
        Path | None, typer.Option("--apply", metavar="FILE", help="Remove only what this plan names and is unchanged since.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on where a brake or a suspicious clock stops the run.")] = False,
    output: FormatOption = Format.AUTO,
    relay_url: RelayUrlOption = None,
    no_relay: NoRelayOption = False,
    unless_running: UnlessRunningOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Remove the directories of scratch sessions that were not used for some days.

    A session goes only if its last turn, its database row and every file in it are older than the limit.
    """
    from arawn_cli.config import Flags
    from arawn_cli.run import Output, run_cleanup

    flags = Flags(config, base_path, older_than_days, dry_run, force, plan_out, apply, relay_url, no_relay, root=root)
    raise typer.Exit(run_cleanup(flags, Output(output.value, verbose, quiet, unless_running)))


@app.command("disk-check")
def disk_check(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Store and send nothing; the events say so.")] = False,
    fail_on: Annotated[FailOn | None, typer.Option("--fail-on", help="Exit with 3 when this level is reached.")] = None,
    output: CheckFormatOption = CheckFormat.AUTO,
    relay_url: RelayUrlOption = None,
    no_relay: NoRelayOption = False,
    unless_running: UnlessRunningOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what every workstream uses, and report what is above its limit."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output, run_check, run_check_for_nagios

    flags = Flags(config, base_path, dry_run=dry_run, relay_url=relay_url, no_relay=no_relay, root=root)
    if output is CheckFormat.NAGIOS:
        raise typer.Exit(run_check_for_nagios(flags, Output(output.value, verbose, quiet)))
    raise typer.Exit(run_check(flags, Output(output.value, verbose, quiet, unless_running), fail_on.value if fail_on else None))


@app.command()
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
    """Show usage against limits, its trend and forecast, the scratch sessions, and what cleanup would take next.

    It measures now and changes nothing; trends and alerts are what earlier runs of disk-check have kept.
    """
    from arawn_cli.config import Flags
    from arawn_cli.run import Output, run_report
    from arawn_cli.schedule.installed import kept_by_timers

    flags = Flags(config, base_path, dry_run=True, no_relay=True, root=root)
    kept = partial(kept_by_timers, flags=flags, environment=os.environ)
    raise typer.Exit(run_report(flags, Output("table", verbose, quiet), days, html, kept))


trash = typer.Typer(no_args_is_help=True, help="What cleanup removed and is not purged yet: list, restore, purge.")
app.add_typer(trash, name="trash")


@trash.command("list")
def trash_list(
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """List the removed sessions that wait in the trash, oldest first."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output, run_trash_list

    raise typer.Exit(run_trash_list(Flags(config, base_path, root=root), Output(output.value, verbose, quiet)))


@trash.command("restore")
def trash_restore(
    session: Annotated[str, typer.Argument(metavar="ID", help="Id of the removed session.")],
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
    from arawn_cli.config import Flags
    from arawn_cli.run import Output, run_trash_restore

    raise typer.Exit(run_trash_restore(Flags(config, base_path, dry_run=False, root=root), Output(output.value, verbose, quiet), session))


@trash.command("purge")
def trash_purge(
    older_than_days: Annotated[
        int, typer.Option("--older-than-days", min=0, max=36_500, metavar="N", help="Purge only what was removed longer ago.")
    ] = 0,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    root: RootOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run/--no-dry-run", help="Change nothing, and say what would be purged.")] = False,
    output: FormatOption = Format.AUTO,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take apart what waits in the trash, and free its space."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output, run_trash_purge

    raise typer.Exit(
        run_trash_purge(Flags(config, base_path, dry_run=dry_run, root=root), Output(output.value, verbose, quiet), older_than_days)
    )


schedule = typer.Typer(no_args_is_help=True, help="Timers for both jobs: systemd units or crontab lines from the configuration.")
app.add_typer(schedule, name="schedule")

SystemdOption = Annotated[bool, typer.Option("--systemd", help="systemd timers; the default where systemd runs.")]
CronOption = Annotated[bool, typer.Option("--cron", help="Lines for cron; the default elsewhere.")]
ScopeOption = Annotated[
    bool | None, typer.Option("--user/--system", help="This account's own timers, or the machine's, which are the default for root.")
]
CloacinaOption = Annotated[bool, typer.Option("--cloacina", help="Workflows of Cloacina, an optional extra.")]
DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="Cloacina's database, without a password; else SQLite in the state directory."),
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing about files that the tool wrote.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Lose what was edited by hand, too.")]


def _is_for_cloacina(cloacina: bool, database: str | None, systemd: bool, cron: bool) -> bool:
    if cloacina and (systemd or cron):
        raise typer.BadParameter("--cloacina excludes --systemd and --cron: the jobs would run twice", param_hint="--cloacina")
    if database is not None and not cloacina:
        raise typer.BadParameter("only --cloacina has a database", param_hint="--database")
    return cloacina


@schedule.command("show")
def schedule_show(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    user: ScopeOption = None,
    cloacina: CloacinaOption = False,
    database: DatabaseOption = None,
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

    if _is_for_cloacina(cloacina, database, systemd, cron):
        from arawn_cli.schedule.cloacina_status import run_show_cloacina

        raise typer.Exit(run_show_cloacina(Flags(config, base_path, root=root), Output("table", verbose, quiet), database))
    raise typer.Exit(run_show(Flags(config, base_path, root=root), Output("table", verbose, quiet), Choice(systemd, cron, user)))


@schedule.command("install")
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


@schedule.command("remove")
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


@schedule.command("status")
def schedule_status(
    systemd: SystemdOption = False,
    cron: CronOption = False,
    user: ScopeOption = None,
    cloacina: CloacinaOption = False,
    database: DatabaseOption = None,
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

    if _is_for_cloacina(cloacina, database, systemd, cron):
        from arawn_cli.schedule.cloacina_status import run_status_cloacina

        raise typer.Exit(run_status_cloacina(Flags(config, base_path, root=root), Output(output.value, verbose, quiet), database))
    raise typer.Exit(run_status(Flags(config, base_path, root=root), Output(output.value, verbose, quiet), Choice(systemd, cron, user)))


@schedule.command("serve")
def schedule_serve(
    cloacina: CloacinaOption = False,
    database: DatabaseOption = None,
    config: ConfigOption = None,
    base_path: BasePathOption = None,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run both jobs when they are due, as workflows of Cloacina, in the foreground until SIGTERM; then finish what is in hand."""
    from arawn_cli.config import Flags
    from arawn_cli.run import Output
    from arawn_cli.schedule.serve import run_serve

    if not cloacina:
        raise typer.BadParameter("say --cloacina: there is no other engine", param_hint="--cloacina")
    raise typer.Exit(run_serve(Flags(config, base_path), Output("json", verbose, quiet), database))


@app.command()
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
    """Look for what would keep the timers from doing their job, and say how to mend it. Changes nothing; exits with 1 on a fail."""
    from arawn_cli.config import Flags
    from arawn_cli.doctor.command import run_doctor
    from arawn_cli.run import Output

    flags = Flags(config, base_path, relay_url=relay_url, no_relay=no_relay, root=root)
    raise typer.Exit(run_doctor(flags, Output(output.value, verbose, quiet)))


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sample tree in place.")] = False,
) -> None:
    """Show both jobs at work on a sample tree in a temporary folder."""
    from arawn_cli.demo import run_demo

    raise typer.Exit(run_demo(keep=keep))


def main() -> None:
    """The console script."""
    _reopen_closed_streams()
    # Looking for plugins reads the metadata of every package that is installed, at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        app()
    except SystemExit as ended:
        # To a monitoring system 2 means critical: a plugin that was called wrong, and did not end by itself, is unknown.
        if ended.code == ExitCode.USAGE and not isinstance(ended.__context__, typer.Exit) and _is_for_nagios(sys.argv):
            typer.echo("DISK UNKNOWN - wrong options, see standard error")
            raise SystemExit(3) from ended
        raise
    except OSError as error:
        if _is_for_nagios(sys.argv):
            sys.stdout = None
            raise SystemExit(3) from error
        typer.echo(f"ERROR: {error.filename or 'standard output'}: {error.strerror}", err=True)
        sys.stdout = None  # so that the interpreter does not fail at flushing it
        raise SystemExit(ExitCode.UNDELIVERED) from error


def _is_for_nagios(arguments: list[str]) -> bool:
    return "--format=nagios" in arguments or ("--format", "nagios") in pairwise(arguments)


def _reopen_closed_streams() -> None:
    """Gives closed standard streams a harmless file: otherwise the next file that is opened would take their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it lives as long as the program
