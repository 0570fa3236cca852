"""`schedule show`, `install`, `remove`, `status` and `serve`."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from arawn_cli import names
from arawn_cli.arawn.root import opened_root
from arawn_cli.cleanup.trash import list_trash_entries, trash_usage
from arawn_cli.cli.account import become_owner_of_configuration, loaded_as_owner, require_of_root
from arawn_cli.cli.options import LOCATION, LOGGING, SCHEDULER, TIMERS, Format, Output, with_options
from arawn_cli.cli.terminal import configure_logging, question
from arawn_cli.command_events import Condition, RunResult, ScheduleStatus
from arawn_cli.config.loader import Config, Flags, load, load_all
from arawn_cli.config.lookup import ignored_config_warning
from arawn_cli.errors import ArawnCliError, ExitCode, RefusedError
from arawn_cli.output import prometheus
from arawn_cli.output.format import minute_with_zone
from arawn_cli.output.tables import Listing
from arawn_cli.schedule.cron import MarkersError
from arawn_cli.schedule.install import Place, Selection, apply_install, apply_removal, bodies_of, require_access, units_to_start
from arawn_cli.schedule.managed_files import Change, SchedulerMissingError, UsageError
from arawn_cli.schedule.places import Scheduler, Scope
from arawn_cli.schedule.settings import (
    Settings,
    Shell,
    command,
    inaccessible_files,
    inaccessible_program,
    refuse_unusable,
    settings_from,
    token_warning,
)
from arawn_cli.schedule.status import idle_problem, is_healthy, is_installed, schedule_of, statuses
from arawn_cli.timestamps import parse
from arawn_cli.units import count, size

if TYPE_CHECKING:
    from arawn_cli.schedule.cloacina.engine_database import EngineDatabase
    from arawn_cli.schedule.cloacina.workflows import Workflow

log = logging.getLogger(__name__)

_DIFF_COLOURS = {"+": "green", "-": "red", "@": "cyan"}

app = typer.Typer(no_args_is_help=True, help="Install, check or remove timers for both jobs.")

YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask, except about files that were edited by hand.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Also overwrite or remove files that were edited by hand.")]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """How the user agrees to changes.

    Attributes:
        yes: `--yes`: agree to changes of unedited files.
        force: `--force`: agree to changes of files that others wrote or edited, too.
        ask: ask a yes-or-no question; None without a terminal.
    """

    yes: bool
    force: bool
    ask: Callable[[str], bool] | None = field(default_factory=question)

    def agreed(self, changes: Sequence[Change], request: str, place: Place, *, has_work: bool = False) -> list[Change] | None:
        """Show the changes, ask, and return those to make, or None if the answer is no.

        A change of the text of others needs `--force` or its own answer. `request` has `{}` for the
        number of files. `has_work` means that there is something to do without any change.

        Raises:
            UsageError: nobody can be asked, and `--yes` is missing.
            RefusedError: nobody can be asked about the text of others. Nothing was changed.
        """
        if not self.yes and self.ask is None:
            raise UsageError("not a terminal, cannot ask: check with `schedule show`, then add --yes")
        for change in changes:
            for line in change.diff():
                print_line(line)
        agreed = [change for change in changes if not change.is_of_others or self.force or self._may_touch(change)]
        text = f"{request.format(count(len(agreed), 'file'))} ({place.title})?"
        if (agreed or has_work) and (self.yes or (self.ask is not None and self.ask(text))):
            return agreed
        print_line("Nothing changed.")
        return None

    def _may_touch(self, change: Change) -> bool:
        found = "was edited by hand" if change.condition is Condition.EDITED else "exists and was not written by arawn-cli"
        if self.ask is None:
            raise RefusedError(f"{change.place} {found}: nothing was changed; check it, then use --force to discard its changes")
        return self.ask(f"{change.place} {found}. {'Remove' if change.after is None else 'Overwrite'} it?")


def install(place: Place, bodies: Mapping[str, str], confirmation: Confirmation, flags: Flags) -> None:
    """Show the changes in a place, ask, write the files and start the timers.

    Files that are up to date are kept.

    Raises:
        UsageError, RefusedError, ScheduleError: it is not possible, not confirmed, or failed.
    """
    require_access(place)
    changes, stopped = place.store.changes_to_install(bodies), units_to_start(place)
    if not changes and not stopped:
        print_line(f"Installed already, nothing to change ({place.title}).")
    else:
        agreed = confirmation.agreed(changes, "Install {} and start the timers", place, has_work=bool(stopped))
        if agreed is None:
            return
        apply_install(place, agreed)
        status = flags.command("schedule", "status", *place.flags)
        print_line(f"Installed {count(len(agreed), 'file')}. See `{status}`, and `{flags.command('doctor')}`.")
    if place.manager is not None and place.manager.is_running() and (command := place.manager.linger_command()):
        print_line(f"The timers of this account stop when it logs out. To keep them running: {flags.typed(command)}")


def preview(flags: Flags, config: Config) -> None:
    """Print the removals of the first cleanup, and recommend a removal limit if none is set."""
    print_line("What the first cleanup would remove:")
    sys.stdout.flush()
    subprocess.run([*command(), "scratch-cleanup", "--dry-run", "--no-relay", "--format", "table", *flags.located], check=False)
    cleanup = config.maintenance.cleanup
    if not cleanup.max_sessions and cleanup.max_percent == 100:
        print_line(
            "No removal limit is set. Set one in [maintenance.cleanup], such as max_percent = 50: a run that would remove more, stops."
        )


def clear_away(flags: Flags) -> None:
    """Remove the metrics, and list the trash that no timer purges any more, if found."""
    with suppress(ArawnCliError, OSError), loaded_as_owner(flags) as config, opened_root(config.root, config.databases) as root:
        for path in prometheus.remove(config.metrics_directory, root.path) if config.metrics_directory else ():
            print_line(f"Removed {path}.")
        if entries := list_trash_entries(root)[0]:
            held = f"{count(len(entries), 'removed session')}, {size(trash_usage(root).apparent_bytes)}"
            print_line(
                f"The trash of {root.path} holds {held}, and no timer purges it any more: "
                f"see `{flags.command('trash', 'list')}`, and `trash restore` or `trash purge`."
            )


def remove(place: Place, confirmation: Confirmation) -> bool:
    """Show the removals from a place, ask, stop the timers and remove the files.

    Return whether something was removed.

    Raises:
        UsageError, RefusedError, ScheduleError: it is not possible, not confirmed, or failed.
    """
    require_access(place)
    changes = place.store.changes_to_remove()
    if not changes:
        print_line(f"Nothing is installed ({place.title}).")
        return False
    if (agreed := confirmation.agreed(changes, "Stop the timers and remove {}", place)) is None:
        return False
    apply_removal(place, agreed)
    print_line(f"Removed {count(len(agreed), 'file')}.")
    return True


def remove_first(places: Sequence[Place], confirmation: Confirmation, flags: Flags) -> bool:
    """Remove the files from the first place that this account can change, and name the others.

    Return whether something was removed.

    Raises:
        UsageError, RefusedError, ScheduleError: as `remove`.
    """
    used = [place for place in places if len(places) == 1 or _test(place, lambda place: bool(place.store.changes_to_remove()))]
    if not used:
        print_line(f"Nothing is installed ({', '.join(place.title for place in places)}).")
        return False
    first, *others = sorted(used, key=lambda place: place.scope is Scope.SYSTEM and os.geteuid() != 0)
    is_removed = remove(first, confirmation)
    for place in others:
        sudo = "sudo " if place.scope is Scope.SYSTEM and os.geteuid() != 0 else ""
        command = flags.typed(f"{sudo}arawn-cli schedule remove {place.title}")
        print_line(f"Still installed ({place.title}): to remove that too, run {command}")
    return is_removed


def print_line(line: str) -> None:
    """Print a message, or a line of a diff in its colour.

    Raises:
        OutputLostError: it cannot be printed. Nothing is changed that was not shown.
    """
    Console(soft_wrap=True, highlight=False).print(Text(names.escape(line), style=_DIFF_COLOURS.get(line[:1], "")))


def print_statuses(found: list[ScheduleStatus], output: Output, flags: Flags) -> None:
    """Print the status of each job."""
    if (show := output.event_printer()) is not None:
        for status in found:
            show(status)
        return
    console = Console(highlight=False)
    for line in _headline(found, flags):
        console.print(line, soft_wrap=True)
    console.print(_table(found))
    for problem in dict.fromkeys(problem for status in found for problem in status.problems):
        console.print(Text(problem, style="red"), soft_wrap=True)


def _headline(found: list[ScheduleStatus], flags: Flags) -> Iterator[Text]:
    """Yield whether the jobs run as configured, or the command that helps, on its own line."""
    place = f"{found[0].scheduler}, {found[0].scope}"
    if all(map(is_healthy, found)):
        yield Text.assemble(("ok", "green"), f": the timers match the configuration, and no run failed ({place})")
    elif not all(status.installed is Condition.MISSING for status in found):
        wrong = ", ".join(status.job for status in found if not is_healthy(status))
        yield Text.assemble(("problem", "bold red"), f": {wrong} ({place}). To see what helps:")
        yield Text(f"  {flags.command('doctor')}")
    elif found[0].scheduler in tuple(Scheduler):
        yield Text.assemble(("not installed", "bold red"), f" ({place}): nothing starts the jobs. To install them:")
        yield Text(f"  {flags.command('schedule', 'install')}")
    else:  # an engine, for which the problems name the command
        yield Text.assemble(("not registered", "bold red"), f" ({place}): nothing starts the jobs.")


def _table(found: list[ScheduleStatus]) -> Listing:
    roots = {status.root for status in found}
    rows = [
        (
            f"{status.job} ({status.root})" if status.root and len(roots) > 1 else status.job,
            Text(status.installed, "green" if status.installed is Condition.CURRENT else "red"),
            Text("yes" if status.enabled else "no", "" if status.enabled else "red"),
            Text(_time(status.last_run)),
            Text(status.result or "-", "red" if status.result == RunResult.FAILED else ""),
            Text(_time(status.next_run)),
        )
        for status in found
    ]
    return Listing(("job", "installed", "enabled", "last run", "result", "next run"), rows)


def _time(timestamp: str | None) -> str:
    return "-" if timestamp is None else minute_with_zone(parse(timestamp))


def _test(place: Place, test: Callable[[Place], bool]) -> bool:
    """Return the result of a test; on an error, false."""
    try:
        return test(place)
    except MarkersError:  # true, so that the next step reports it
        return True
    except SchedulerMissingError as error:
        log.debug("%s", error)
    except ArawnCliError as error:
        log.warning("%s", error)
    return False


def _access_problems(settings: Settings, scheduler: Scheduler) -> list[str]:
    paths = (*inaccessible_program(settings), *inaccessible_files(settings, scheduler))
    return [f"{settings.account.name}, the account of the jobs, cannot access {path}: they would fail" for path in paths]


def _is_for_cloacina(selection: Selection) -> bool:
    if selection.cloacina and (selection.systemd or selection.cron):
        raise typer.BadParameter("--cloacina excludes --systemd and --cron: the jobs would run twice", param_hint="--cloacina")
    if selection.database is not None and not selection.cloacina:
        raise typer.BadParameter("only --cloacina has a database", param_hint="--database")
    return selection.cloacina


@app.command("show")
@with_options(*LOCATION, *SCHEDULER, *LOGGING)
def schedule_show(flags: Flags, output: Output, selection: Selection) -> None:
    """Print the files that install would write; change nothing."""
    configure_logging(output)
    if _is_for_cloacina(selection):
        workflows, database, _ = _workflows(flags, output, selection)
        sys.stdout.write(f"# {database}, times in UTC: second minute hour day month weekday\n")
        for workflow in workflows:
            sys.stdout.write(f"{workflow.name}\t{workflow.cron}\n")
        return
    scheduler, scope = selection.preferred()
    with loaded_as_owner(flags) as config:
        settings = settings_from(config, scope)
    bodies = bodies_of(scheduler, settings)
    for name, body in bodies.items():
        sys.stdout.write(f"# {name}\n{body}\n" if len(bodies) > 1 else body)


@app.command("install")
@with_options(*LOCATION, *TIMERS, *LOGGING)
def schedule_install(flags: Flags, output: Output, selection: Selection, yes: YesOption = False, force: ForceOption = False) -> None:
    """Install and start the timers, after showing the changes and asking."""
    configure_logging(output)
    scheduler, scope = selection.preferred()
    with loaded_as_owner(flags) as config:
        settings = settings_from(config, scope)
        if not settings.is_of_root:
            refuse_unusable(settings)
        warnings = (ignored_config_warning(config.root, config.file), token_warning(config, os.environ))
    for warning in (*warnings, *_access_problems(settings, scheduler)):
        if warning is not None:
            log.warning("%s", warning)
    schedule = schedule_of(scheduler, settings, os.environ)
    confirmation, bodies = Confirmation(yes, force), bodies_of(scheduler, settings)
    if confirmation.ask is not None and not yes and schedule.place.store.changes_to_install(bodies):
        preview(flags, config)
    install(schedule.place, bodies, confirmation, flags)
    if is_installed(schedule.place) and (problem := idle_problem(schedule, Shell(config, flags, os.environ))):
        log.error("%s", problem)
        raise typer.Exit(ExitCode.PARTIAL)


@app.command("remove")
@with_options(*LOCATION, *TIMERS, *LOGGING)
def schedule_remove(flags: Flags, output: Output, selection: Selection, yes: YesOption = False, force: ForceOption = False) -> None:
    """Stop the timers and remove their files."""
    configure_logging(output)
    # The timers are found without the configuration, because it may be gone, and with it the name
    # of the root.
    if flags.root is not None and not names.is_valid_id(flags.root):
        raise UsageError(f"--root {names.escape(flags.root)}: not a valid name of a root")
    if remove_first(list(selection.places(os.environ, flags.root)), Confirmation(yes, force), flags):
        clear_away(flags)


@app.command("status")
@with_options(*LOCATION, *SCHEDULER, "format", *LOGGING)
def schedule_status(flags: Flags, output: Output, selection: Selection) -> None:
    """Show the last and next runs, and whether the timers match the configuration.

    The exit code is 1 if they do not match, or if a run failed.
    """
    configure_logging(output)
    if _is_for_cloacina(selection):
        from arawn_cli.schedule.cloacina.workflows import statuses as registered

        workflows, database, _ = _workflows(flags, output, selection)
        found = registered(database, workflows, time.time_ns(), socket.gethostname())
    else:
        found = _installed(flags, selection)
    print_statuses(found, output, flags)
    raise typer.Exit(ExitCode.DONE if all(map(is_healthy, found)) else ExitCode.PARTIAL)


def _installed(flags: Flags, selection: Selection) -> list[ScheduleStatus]:
    """Return the status of each job in the first place that has a schedule.

    Without one, it is that of the place where `install` would put it.
    """
    used = next((place for place in selection.places(os.environ, flags.root) if _test(place, is_installed)), None)
    scheduler, scope = (used.scheduler, used.scope) if used else selection.preferred()
    with loaded_as_owner(flags) as config:
        settings = settings_from(config, scope)
    schedule = schedule_of(scheduler, settings, os.environ)
    found = [each.event for each in statuses(schedule, time.time_ns(), Shell(config, flags, os.environ))]
    if any(status.installed is not Condition.MISSING for status in found):
        problems = tuple(_access_problems(settings, scheduler))
        found = [replace(status, problems=(*status.problems, *problems)) for status in found]
    return found


@app.command("serve")
@with_options("config", "base_path", "cloacina", "database", *LOGGING)
def schedule_serve(flags: Flags, output: Output, selection: Selection) -> None:
    """Run both jobs as workflows of Cloacina, in the foreground, until SIGTERM.

    On SIGTERM, it finishes the runs in progress first.
    """
    if not selection.cloacina:
        raise typer.BadParameter("add --cloacina (the only engine)", param_hint="--cloacina")
    from arawn_cli.schedule.cloacina import service

    output = replace(output, format=Format.JSON)
    configure_logging(output)
    engine = service.load_engine()
    of_jobs = _workflows(flags, output, selection)
    service.serve(engine, *of_jobs, dict(os.environ))  # of the account that this process has become


def _workflows(flags: Flags, output: Output, selection: Selection) -> tuple[list[Workflow], EngineDatabase, Path]:
    """Return the workflows of one or all roots, the database, and the state directory."""
    from arawn_cli.schedule.cloacina.engine_database import database_from
    from arawn_cli.schedule.cloacina.workflows import workflows_of

    become_owner_of_configuration(flags)
    configs = load_all(flags, os.environ) if flags.root is None else [load(flags, os.environ)]
    state_directory = configs[0].state_directory
    require_of_root(state_directory)
    workflows = workflows_of(configs, flags, verbose=output.verbose, quiet=output.quiet)
    return workflows, database_from(selection.database, os.environ, state_directory), state_directory
