"""Define the program: its commands, and the exit codes of errors and wrong options."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from arawn_cli import __version__
from arawn_cli.cli.help import TOPICS, misplaced_option, other_commands, write_help
from arawn_cli.errors import ArawnCliError, ExitCode, OutputLostError, log_error
from arawn_cli.output.stdout import replace_stdout

if TYPE_CHECKING:
    from typer._click.core import Command as CommandOfClick
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter


class Command(TyperCommand):
    """A command. An error that ends it is logged as one line and becomes the exit code."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write its help."""
        write_help(self, ctx, formatter)

    def invoke(self, ctx: Context) -> object:
        """Run the command.

        Raises:
            typer.Exit: the command ended, with this exit code.
        """
        _raise_interrupts()
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(log_error(error)) from error
        finally:
            if (in_use := sys.modules.get("arawn_cli.fs.in_use")) is not None:  # most commands do not import it
                in_use.end_root_child()


def _raise_interrupts() -> None:
    """Raise KeyboardInterrupt on Ctrl-C; until now it ended the program at once (`__main__`)."""
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.default_int_handler):
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Group(TyperGroup):
    """A command that has others."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write its help, and that of the program also exit codes and variables."""
        write_help(self, ctx, formatter)
        if ctx.parent is None:
            formatter.write(TOPICS)

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """Parse the options before a command, with a hint if they belong to it."""
        if args and not ctx.resilient_parsing and (hint := misplaced_option(self, args)):
            ctx.fail(hint)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, CommandOfClick | None, list[str]]:
        """Find the command that the arguments name, with a hint if there is none."""
        if args[0] not in self.commands and not ctx.resilient_parsing and (others := other_commands(self, args[0])):
            ctx.fail(f"No such command '{args[0]}'. Did you mean {' or '.join(f'{ctx.command_path} {other}' for other in others)}?")
        return super().resolve_command(ctx, args)


# The module and function of each command, and the module of each group.
# A start imports only the one that it runs.
_COMMANDS = {
    "scratch-cleanup": ("cleanup", "scratch_cleanup"),
    "disk-check": ("diskcheck", "disk_check"),
    "report": ("report", "report"),
    "doctor": ("doctor", "doctor"),
    "demo": ("demo", "demo"),
}
_GROUPS = {"trash": "cleanup", "schedule": "schedule", "config": "config"}


def program(first: str = "") -> typer.Typer:
    """Return the program with all commands, or only with the one that the argument `first` names.

    `--version` needs no command.
    """
    app = typer.Typer(
        name="arawn-cli",
        cls=Group,
        help="Remove unused scratch sessions of an Arawn server and watch its disk usage.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_top)
    alone = first in _COMMANDS or first in _GROUPS or first in ("-V", "--version")
    for name, (module, function) in _COMMANDS.items():
        if not alone or name == first:
            command = getattr(import_module(f"arawn_cli.cli.{module}"), function)
            app.command(name, cls=Command)(command)
    for name, module in _GROUPS.items():
        if not alone or name == first:
            group: typer.Typer = import_module(f"arawn_cli.cli.{module}").app
            for info in group.registered_commands:
                info.cls = Command
            app.add_typer(group, name=name, cls=Group)
    return app


def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("-V", "--version", help="Show the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="With --version: also show Python and the account.")] = False,
) -> None:
    """Remove unused scratch sessions of an Arawn server and watch its disk usage."""
    if version:
        typer.echo(f"arawn-cli {__version__}")
        if verbose:
            from arawn_cli.fs.measure import measuring_method

            if commit := _commit():
                typer.echo(f"commit {commit}")
            typer.echo(f"Python {sys.version.split()[0]}\n{measuring_method()}\n{_account()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(ExitCode.USAGE)


def _commit() -> str:
    """Return the commit of the build or of an editable checkout, or an empty text."""
    import subprocess
    from pathlib import Path

    package = Path(__file__).parents[1]
    with suppress(FileNotFoundError):
        return (package / "_commit.txt").read_text().strip()
    if not (package.parent / ".git").exists():
        return ""
    git = ["git", "-C", str(package.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(git, capture_output=True, check=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or the checkout of another account
        return ""


def _account() -> str:
    """Return the account that a run with the default configuration acts as."""
    from arawn_cli.cli.account import load_as_owner
    from arawn_cli.config.loader import Flags
    from arawn_cli.fs.in_use import end_root_child
    from arawn_cli.fs.permissions import account_name

    is_root = os.geteuid() == 0
    with suppress(ArawnCliError):  # without a root it is this account
        if is_root:
            load_as_owner(Flags())
            end_root_child()
    name = account_name(os.geteuid())
    return f"acts as {name}" + (", the owner of the root" if is_root and os.geteuid() else "")


def main() -> int:
    """Run the command that the arguments name, and return its exit code."""
    _reopen_closed_streams()
    replace_stdout()
    try:
        code = _run()
        sys.stdout.flush()
    except OutputLostError as error:
        code = log_error(error)
    except OSError:  # the message about wrong options cannot be written to standard error
        return 3 if _is_for_nagios(sys.argv) else ExitCode.USAGE
    if _is_for_nagios(sys.argv) and code not in range(4):
        return 3
    return code


def _run() -> int:
    """Run the program and return its exit code."""
    try:
        program(sys.argv[1] if len(sys.argv) > 1 else "")()
    except SystemExit as ended:
        # The return code 2 of a plugin means critical. Wrong options do not end by typer.Exit: they
        # are unknown.
        if ended.code == ExitCode.USAGE and not isinstance(ended.__context__, typer.Exit) and _is_for_nagios(sys.argv):
            typer.echo("DISK UNKNOWN - wrong options, see standard error")
            return 3
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def _is_for_nagios(arguments: list[str]) -> bool:
    return "--format=nagios" in arguments or ("--format", "nagios") in pairwise(arguments)


def _reopen_closed_streams() -> None:
    """Open closed standard streams on /dev/null; else the next file would get their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - open until the end
