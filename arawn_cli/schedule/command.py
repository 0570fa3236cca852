"""The commands of `schedule`, from flags to exit code."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from rich.console import Console
from rich.table import Table
from rich.text import Text

from arawn_cli import names
from arawn_cli.config import Flags, load
from arawn_cli.errors import ArawnCliError, ExitCode
from arawn_cli.question import confirmed
from arawn_cli.run import Output, guarded
from arawn_cli.schedule.access import out_of_reach
from arawn_cli.schedule.changes import AskedWronglyError, NoSchedulerError, TangledError
from arawn_cli.schedule.effective import settings_from, warnings_of
from arawn_cli.schedule.install import Consent, install, remove
from arawn_cli.schedule.installation import Place, bodies_of, chosen, place_of
from arawn_cli.schedule.settings import Scheduler, Scope
from arawn_cli.schedule.status import Told, installed_anywhere, is_well, statuses
from arawn_cli.setup_events import ScheduleStatus
from arawn_cli.sinks.stdout import json_lines, printing
from arawn_cli.vocabulary import Condition, RunResult

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
