"""The commands of `schedule`, from flags to exit code. / `schedule show`, `install`, `remove`, `status` and `serve`."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arawn_cli import names
from arawn_cli.cli.options import BasePathOption, ConfigOption, Format, FormatOption, QuietOption, RootOption, VerboseOption
from arawn_cli.cli.runner import Output, confirmed, guarded
from arawn_cli.config.loader import Flags, load
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.events import Condition, RunResult, ScheduleStatus
from arawn_cli.output.jsonl import json_lines, printing
from arawn_cli.schedule.install import Consent, Place, bodies_of, chosen, install, place_of, remove
from arawn_cli.schedule.managed_files import AskedWronglyError, NoSchedulerError, TangledError
from arawn_cli.schedule.permissions import out_of_reach
from arawn_cli.schedule.settings import Scheduler, Scope, settings_from, warnings_of
from arawn_cli.schedule.status import Told, installed_anywhere, is_well, statuses

log = logging.getLogger(__name__)

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the command line says about where, and about consent."""

    systemd: bool
    cron: bool
    user: bool | None
    yes: bool = False
    force: bool = False

    def place(self) -> tuple[Scheduler, Scope]:
        """The scheduler and the scope."""
        return chosen(systemd=self.systemd, cron=self.cron, user=self.user)


def run_show(flags: Flags, output: Output, choice: Choice) -> ExitCode:
    """`schedule show`."""

    def body(_: Console | None) -> ExitCode:
        scheduler, scope = choice.place()
        settings = settings_from(load(flags, os.environ), flags, os.environ, scope)
        texts = bodies_of(scheduler, settings)
        with printing():
            for name, text in texts.items():
                sys.stdout.write(f"# {name}\n{text}\n" if len(texts) > 1 else text)
        return ExitCode.DONE

    return guarded(output, body)


def run_install(flags: Flags, output: Output, choice: Choice) -> ExitCode:
    """`schedule install`."""

    def body(_: Console | None) -> ExitCode:
        scheduler, scope = choice.place()
        config = load(flags, os.environ)
        settings = settings_from(config, flags, os.environ, scope)
        for warning in (*warnings_of(config, os.environ), *out_of_reach(settings, scheduler)):
            log.warning("%s", warning)
        place = place_of(scheduler, scope, settings, os.environ, flags.root)
        return install(place, bodies_of(scheduler, settings), _consent(choice), flags.located)

    return guarded(output, body)


def run_remove(output: Output, choice: Choice, root: str | None) -> ExitCode:
    """`schedule remove`; it needs no configuration, which may be gone by then, and neither knows the named root any more."""

    def body(_: Console | None) -> ExitCode:
        if root is not None and not names.is_valid_id(root):
            raise AskedWronglyError(f"--root {names.escape(root)}: no root can have this name")
        return _remove_from(list(_left_open(choice, root)), _consent(choice))

    return guarded(output, body)


def _remove_from(places: list[Place], consent: Consent) -> ExitCode:
    """Removes from the first of some places that holds something, those first that this account may change, and names the others."""
    if len(places) == 1:
        return remove(places[0], consent)
    held = [place for place in places if _holds(place, lambda place: bool(place.store.removing()))]
    if not held:
        consent.tell(f"Nothing is installed ({', '.join(place.title for place in places)}).")
        return ExitCode.DONE
    first, *others = sorted(held, key=lambda place: place.scope is Scope.SYSTEM and os.geteuid() != 0)
    code = remove(first, consent)
    for place in others:
        consent.tell(f"Still installed ({place.title}): to remove that too, run arawn-cli schedule remove {place.title}")
    return code


def run_status(flags: Flags, output: Output, choice: Choice) -> ExitCode:
    """`schedule status`; 1 when something is not as configured, or the last run failed."""

    def body(_: Console | None) -> ExitCode:
        config = load(flags, os.environ)
        scheduler, scope = _first_installed(choice, flags.root)
        settings = settings_from(config, flags, os.environ, scope)
        told = Told(config, settings, time.time_ns(), socket.gethostname(), flags.located)
        found = [each.event for each in statuses(place_of(scheduler, scope, settings, os.environ, flags.root), told)]
        if any(status.installed is not Condition.MISSING for status in found):
            hidden = tuple(out_of_reach(settings, scheduler))
            found = [replace(status, problems=(*status.problems, *hidden)) for status in found]
        print_statuses(found, output)
        return ExitCode.DONE if all(is_well(status) for status in found) else ExitCode.PARTIAL

    return guarded(output, body)


def _first_installed(choice: Choice, root: str | None) -> tuple[Scheduler, Scope]:
    """Where something is installed, of the places that the command line leaves open; else the one that `install` would take."""
    found = next((place for place in _left_open(choice, root) if _holds(place, installed_anywhere)), None)
    return choice.place() if found is None else (found.scheduler, found.scope)


def _left_open(choice: Choice, root: str | None) -> Iterator[Place]:
    """The places that the command line leaves open, first the one that `install` would take."""
    preferred = choice.place()
    schedulers = (preferred[0],) if choice.systemd or choice.cron else sorted(Scheduler, key=lambda each: each is not preferred[0])
    scopes = (preferred[1],) if choice.user is not None else sorted(Scope, key=lambda each: each is not preferred[1])
    for scheduler, scope in product(schedulers, scopes):
        yield place_of(scheduler, scope, None, os.environ, root)


def _holds(place: Place, looked: Callable[[Place], bool]) -> bool:
    """What a look at a place says; lines that cannot be told apart count as something, so that working on them tells."""
    try:
        return looked(place)
    except TangledError:
        return True
    except NoSchedulerError as error:
        log.debug("%s", error)
    except ArawnCliError as error:
        log.warning("%s", error)
    return False


def _consent(choice: Choice) -> Consent:
    attended = sys.stdin.isatty() and sys.stdout.isatty()
    return Consent(choice.yes, choice.force, _asker() if attended else None, _teller())


def _asker() -> Callable[[str], bool]:
    return lambda question: confirmed(names.escape(question))


def _teller() -> Callable[[str], None]:
    """Shows lines of a diff in colour; a line that is none stays as it is. What cannot be shown is not gone on with."""
    console = Console(soft_wrap=True, highlight=False)

    def tell(line: str) -> None:
        with printing():
            console.print(Text(names.escape(line), style=_COLOURS.get(line[:1], "")))

    return tell


def print_statuses(found: list[ScheduleStatus], output: Output) -> None:
    """Prints the status of each job in the form that was asked for."""
    with printing():
        match output.resolved():
            case "json":
                write = json_lines(sys.stdout)
                for status in found:
                    write(status)
            case "table":
                console = Console(highlight=False, soft_wrap=True)
                console.print(_table(found))
                for problem in dict.fromkeys(problem for status in found for problem in status.problems):
                    console.print(Text(problem, style="red"))


def _table(found: list[ScheduleStatus]) -> Table:
    roots = {status.root for status in found}
    of = (found[0].scheduler, found[0].scope, *((f"root {root}" for root in roots if root) if len(roots) == 1 else ()))
    table = Table(title=f"Schedule ({', '.join(of)})", title_justify="left")
    table.add_column("job", no_wrap=True)
    for heading in ("installed", "enabled", "last run", "result", "next run"):
        table.add_column(heading, overflow="fold")
    for status in found:
        cells = (
            Text(status.installed, "green" if status.installed is Condition.CURRENT else "red"),
            Text("yes" if status.enabled else "no", "" if status.enabled else "red"),
            Text(_moment(status.last_run)),
            Text(status.result or "-", "red" if status.result == RunResult.FAILED else ""),
            Text(_moment(status.next_run)),
        )
        job = f"{status.job} ({status.root})" if status.root and len(roots) > 1 else status.job
        table.add_row(job, *cells)
    return table


def _moment(text: str | None) -> str:
    return "-" if text is None else text[:19].replace("T", " ") + " UTC"


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
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, root=root)
    shown = Output(format="table", verbose=verbose, quiet=quiet)
    if _is_for_cloacina(cloacina, database, systemd, cron):
        from arawn_cli.cli.cloacina import run_show_cloacina

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
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

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
    from arawn_cli.cli.runner import Output

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
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    flags = Flags(config=config, base_path=base_path, root=root)
    shown = Output(format=output.value, verbose=verbose, quiet=quiet)
    if _is_for_cloacina(cloacina, database, systemd, cron):
        from arawn_cli.cli.cloacina import run_status_cloacina

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
    from arawn_cli.cli.cloacina import run_serve
    from arawn_cli.cli.runner import Output
    from arawn_cli.config.loader import Flags

    if not cloacina:
        raise typer.BadParameter("say --cloacina: there is no other engine", param_hint="--cloacina")
    raise typer.Exit(run_serve(Flags(config=config, base_path=base_path), Output(format="json", verbose=verbose, quiet=quiet), database))
