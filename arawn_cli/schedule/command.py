"""The commands of `schedule`, from flags to exit code."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from arawn_cli import names
from arawn_cli.config import Flags, load
from arawn_cli.errors import ExitCode
from arawn_cli.run import Output, guarded
from arawn_cli.schedule.access import out_of_reach
from arawn_cli.schedule.changes import AskedWronglyError, ScheduleError
from arawn_cli.schedule.effective import settings_from, warnings_of
from arawn_cli.schedule.install import Consent, install, remove
from arawn_cli.schedule.installation import bodies_of, chosen, place_of
from arawn_cli.schedule.settings import Scheduler, Scope
from arawn_cli.schedule.status import Told, installed_anywhere, is_well, statuses
from arawn_cli.setup_events import ScheduleStatus
from arawn_cli.sinks.stdout import json_lines, printing
from arawn_cli.vocabulary import Condition

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
        scheduler, scope = choice.place()
        return remove(place_of(scheduler, scope, None, os.environ, root), _consent(choice))

    return guarded(output, body)


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
    preferred = choice.place()
    schedulers = (preferred[0],) if choice.systemd or choice.cron else sorted(Scheduler, key=lambda each: each is not preferred[0])
    scopes = (preferred[1],) if choice.user is not None else sorted(Scope, key=lambda each: each is not preferred[1])
    for scheduler, scope in product(schedulers, scopes):
        try:
            if installed_anywhere(place_of(scheduler, scope, None, os.environ, root)):
                return scheduler, scope
        except ScheduleError as error:  # such as a crontab(1) that is not there
            log.debug("%s", error)
    return preferred


def _consent(choice: Choice) -> Consent:
    attended = sys.stdin.isatty() and sys.stdout.isatty()
    return Consent(choice.yes, choice.force, _asker() if attended else None, _teller())


def _asker() -> Callable[[str], bool]:
    return lambda question: typer.confirm(names.escape(question))


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
    for heading in ("job", "installed", "enabled", "last run", "result", "next run"):
        table.add_column(heading, overflow="fold")
    for status in found:
        style = "green" if is_well(status) else "red"
        cells = (
            status.installed,
            "yes" if status.enabled else "no",
            _moment(status.last_run),
            status.result or "-",
            _moment(status.next_run),
        )
        job = f"{status.job} ({status.root})" if status.root and len(roots) > 1 else status.job
        table.add_row(job, *(Text(cell, style=style if cell == status.installed else "") for cell in cells))
    return table


def _moment(text: str | None) -> str:
    return "-" if text is None else text[:19].replace("T", " ") + " UTC"
