"""The program: its commands together, and what becomes of options and streams that are wrong.

Start-up matters for a command that runs 288 times a day: what only one command needs is imported in it.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from typing import Annotated

import typer

from arawn_cli import __version__
from arawn_cli.commands import config, jobs, schedule, trash
from arawn_cli.errors import ExitCode

app = typer.Typer(
    name="arawn-cli",
    help="Clean up after an Arawn server and watch the disk that it fills.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("scratch-cleanup")(jobs.scratch_cleanup)
app.command("disk-check")(jobs.disk_check)
app.command()(jobs.report)
app.add_typer(trash.app, name="trash")
app.add_typer(schedule.app, name="schedule")
app.add_typer(config.app, name="config")
app.command()(jobs.doctor)
app.command()(jobs.demo)


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
