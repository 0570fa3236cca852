"""Install and remove schedules."""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.errors import ExitCode, RefusedError
from arawn_cli.events import Condition, JobName
from arawn_cli.schedule.cron import CRON_FILE, cron_block, cron_file
from arawn_cli.schedule.managed_files import AskedWronglyError, Change, FileStore, NoSchedulerError, OwnDirectory, ScheduleError, Store
from arawn_cli.schedule.settings import Scheduler, Scope, Settings, suffixed
from arawn_cli.schedule.systemctl import Manager, systemd_runs
from arawn_cli.schedule.systemd import NOTIFIER, state_name, units
from arawn_cli.schedule.user_crontab import BLOCK, CrontabStore

_TIMER = re.compile(rf"arawn-({'|'.join(JobName)})(-.+)?\.timer")


_SYSTEM_UNITS = Path("/etc/systemd/system")


_CRON_DIRECTORY = Path("/etc/cron.d")


def units_of(timer: str) -> tuple[str, str]:
    """A timer and its service."""
    return timer, f"{timer.removesuffix('.timer')}.service"


@dataclass(frozen=True, slots=True)
class Place:
    """Where timers of a root are installed; `manager` is None for cron, which needs to be told nothing."""

    scheduler: Scheduler
    scope: Scope
    store: Store
    manager: Manager | None
    root_name: str | None = None

    @property
    def flags(self) -> str:
        """The options that name the scheduler and the scope."""
        return f"--{self.scheduler} --{self.scope}"

    @property
    def title(self) -> str:
        """What it is, for a person: the options that name it and its root."""
        return self.flags if self.root_name is None else f"{self.flags} --root {self.root_name}"

    @property
    def timers(self) -> tuple[str, ...]:
        """The names of its timers."""
        return _timers(self.root_name)


def chosen(*, systemd: bool, cron: bool, user: bool | None) -> tuple[Scheduler, Scope]:
    """The scheduler and scope that options name, or that fit: systemd where it runs, the machine's timers for root.

    Raises:
        AskedWronglyError: both schedulers are named.
    """
    if systemd and cron:
        raise AskedWronglyError("--systemd and --cron exclude each other: the jobs would run twice")
    use_cron = cron or not (systemd or systemd_runs())
    own = os.geteuid() != 0 if user is None else user
    return Scheduler.CRON if use_cron else Scheduler.SYSTEMD, Scope.USER if own else Scope.SYSTEM


def place_of(scheduler: Scheduler, scope: Scope, settings: Settings | None, environment: Mapping[str, str], root_name: str | None) -> Place:
    """The place of a scheduler, a scope and a root; without settings, for looking and removing alone."""
    if scheduler is Scheduler.CRON:
        store: Store = (
            FileStore(_CRON_DIRECTORY, (suffixed(CRON_FILE, root_name),))
            if scope is Scope.SYSTEM
            else CrontabStore(pwd.getpwuid(os.getuid()).pw_name, root_name)
        )
        return Place(scheduler, scope, store, None, root_name)
    own = _own_directories(settings) if settings else ()
    watched = () if scope is Scope.SYSTEM else (_xdg(environment, "XDG_DATA_HOME", ".local/share") / "systemd" / "timers",)
    directory = _unit_directory(scope, environment)
    return Place(scheduler, scope, FileStore(directory, _unit_names(directory, root_name), own, watched), Manager(scope), root_name)


def bodies_of(scheduler: Scheduler, settings: Settings) -> dict[str, str]:
    """The text of each file, without its first line.

    Raises:
        ConfigurationError: a path or an interval cannot be written there.
    """
    if scheduler is Scheduler.SYSTEMD:
        return units(settings)
    name = suffixed(CRON_FILE, settings.root_name)
    return {name: cron_file(settings)} if settings.scope is Scope.SYSTEM else {BLOCK: cron_block(settings)}


def require_rights(place: Place) -> None:
    """Makes sure that this account may change a place.

    Raises:
        AskedWronglyError: it may not, or no manager is there to be told.
        NoSchedulerError: no cron is there.
    """
    if place.scope is Scope.SYSTEM and os.geteuid() != 0:
        raise AskedWronglyError("timers of the machine are root's to change: use sudo, or --user for timers of this account")
    if place.manager is not None:
        place.manager.require()
    if isinstance(place.store, FileStore) and place.scheduler is Scheduler.CRON and not place.store.directory.is_dir():
        raise NoSchedulerError(f"{place.store.directory} is not there: install cron, or use --systemd")


def _timers(root_name: str | None) -> tuple[str, ...]:
    return tuple(f"{suffixed(f'arawn-{job}', root_name)}.timer" for job in JobName)


def _unit_names(directory: Path, root_name: str | None) -> tuple[str, ...]:
    """The units of a root; the notifier, which is everybody's, is among them once no other root has timers there."""
    timers = _timers(root_name)
    own = tuple(name for timer in timers for name in units_of(timer))
    try:
        found = os.listdir(directory)
    except OSError:  # not there, or not to be read, which the files in it tell
        found = []
    return own if any(_TIMER.fullmatch(name) and name not in timers for name in found) else (*own, NOTIFIER)


def _own_directories(settings: Settings) -> tuple[OwnDirectory, ...]:
    """The state directory, where the unit does not have systemd make it: a unit cannot write to one that is missing."""
    if settings.state is None or (settings.scope is Scope.SYSTEM and state_name(settings) is not None):
        return ()
    if settings.scope is Scope.USER:
        return (OwnDirectory(settings.state, os.getuid(), os.getgid()),)
    entry = pwd.getpwnam(settings.account.name)
    return (OwnDirectory(settings.state, entry.pw_uid, entry.pw_gid),)


def _unit_directory(scope: Scope, environment: Mapping[str, str]) -> Path:
    return _SYSTEM_UNITS if scope is Scope.SYSTEM else _xdg(environment, "XDG_CONFIG_HOME", ".config") / "systemd" / "user"


def _xdg(environment: Mapping[str, str], variable: str, default: str) -> Path:
    """A base directory, which the specification wants absolute."""
    named = environment.get(variable, "")
    return Path(named) if named.startswith("/") else Path.home() / default


@dataclass(frozen=True, slots=True)
class Consent:
    """How a change is agreed to.

    Attributes:
        yes: `--yes`, for what the tool wrote.
        force: `--force`, for what it did not write too.
        ask: puts a question, or None where nobody is there to answer.
        tell: shows a line.
    """

    yes: bool
    force: bool
    ask: Callable[[str], bool] | None
    tell: Callable[[str], None]

    def require_somebody(self) -> None:
        """Makes sure that there is consent, or somebody to give it.

        Raises:
            AskedWronglyError: there is not.
        """
        if not self.yes and self.ask is None:
            raise AskedWronglyError("standard input is no terminal, so nobody can be asked: say --yes, after a look with `schedule show`")

    def agreed(self, changes: Sequence[Change]) -> list[Change]:
        """The changes without those that would touch somebody's own edits and are not agreed to.

        Raises:
            RefusedError: there are such, and nobody to ask.
        """
        for change in changes:
            for line in change.diff():
                self.tell(line)
        return [change for change in changes if not change.needs_question or self.force or self._may_touch(change)]

    def goes_ahead(self, question: str) -> bool:
        """Whether it is agreed to go ahead."""
        return self.yes or (self.ask is not None and self.ask(question))

    def _may_touch(self, change: Change) -> bool:
        found = "was edited since the tool wrote it" if change.condition is Condition.EDITED else "is there and was not written by the tool"
        if self.ask is None:
            raise RefusedError(f"{change.place} {found}: left as it is, nothing was changed; look at it, and use --force to lose it")
        verb = "Remove" if change.after is None else "Overwrite"
        return self.ask(f"{change.place} {found}. {verb} it?")


def install(place: Place, bodies: Mapping[str, str], consent: Consent, located: Sequence[str] = ()) -> ExitCode:
    """Brings a place to the wanted texts and starts the timers; what is as it should be is not touched.

    `located` are the words that say where the configuration is, for the commands that are named at the end.

    Raises:
        AskedWronglyError, RefusedError, ScheduleError: it cannot be done here, or is not agreed to, or failed.
    """
    require_rights(place)
    changes = place.store.installing(bodies)
    if not changes and not _idle(place):
        consent.tell(f"Installed already, nothing to change ({place.title}).")
        _tell_of_logout(place, consent)
        return ExitCode.DONE
    consent.require_somebody()
    agreed = consent.agreed(changes)
    if not agreed and not _idle(place):
        consent.tell("Nothing changed.")
        return ExitCode.DONE
    if not consent.goes_ahead(f"Install {_count(agreed, 'file')} and start the timers ({place.title})?"):
        consent.tell("Nothing changed.")
        return ExitCode.DONE
    place.store.apply(agreed)
    _start(place, {change.name for change in agreed})
    status, doctor = (shlex.join(("arawn-cli", *words, *located)) for words in (("schedule", "status", *place.flags.split()), ("doctor",)))
    consent.tell(f"Installed {_count(agreed, 'file')}. See `{status}`, and `{doctor}`.")
    _tell_of_logout(place, consent)
    return ExitCode.DONE


def remove(place: Place, consent: Consent) -> ExitCode:
    """Takes away what `install` brought, and nothing else.

    Raises:
        AskedWronglyError, RefusedError, ScheduleError: as in `install`.
    """
    require_rights(place)
    changes = place.store.removing()
    if not changes:
        consent.tell(f"Nothing is installed ({place.title}).")
        return ExitCode.DONE
    consent.require_somebody()
    agreed = consent.agreed(changes)
    if not agreed or not consent.goes_ahead(f"Stop the timers and remove {_count(agreed, 'file')} ({place.title})?"):
        consent.tell("Nothing changed.")
        return ExitCode.DONE
    _stop(place, [change.name for change in agreed if change.name in place.timers])
    place.store.apply(agreed)
    _reload(place)
    consent.tell(f"Removed {_count(agreed, 'file')}.")
    return ExitCode.DONE


def _tell_of_logout(place: Place, consent: Consent) -> None:
    mend = place.manager.lingering() if place.manager is not None else None
    if mend is not None:
        consent.tell(f"The timers of this account stop when it logs out. To keep them running: {mend}")


def _idle(place: Place) -> list[str]:
    """The timers that do not run as their files say, or would not after the next start of the machine."""
    manager = place.manager
    if manager is None:
        return []
    runs = manager.answers()
    return [
        timer
        for timer in place.timers
        if manager.state("is-enabled", timer) != "enabled"
        or (runs and (manager.state("is-active", timer) != "active" or any(manager.is_behind(unit) for unit in units_of(timer))))
    ]


def _start(place: Place, changed: set[str]) -> None:
    """Enables the timers; one that runs already is started anew only when its own file has changed."""
    manager = place.manager
    if manager is None:
        return
    idle = _idle(place)
    _reload(place)
    manager.tell("enable", *place.timers)
    if manager.answers():
        for timer in place.timers:
            if timer in changed or timer in idle:
                manager.tell("restart", timer)


def _stop(place: Place, timers: Sequence[str]) -> None:
    manager = place.manager
    if manager is None or not timers:
        return
    manager.tell("disable", *timers)
    if manager.answers():
        manager.tell("stop", *timers)
        with suppress(ScheduleError):  # no timer has a stamp file before it first ran
            manager.tell("clean", "--what=state", *timers)


def _reload(place: Place) -> None:
    if place.manager is not None and place.manager.answers():
        place.manager.tell("daemon-reload")
        with suppress(ScheduleError):  # unless one of them has failed there is nothing to forget
            place.manager.tell("reset-failed", *(units_of(timer)[1] for timer in place.timers))


def _count(changes: Sequence[Change], noun: str) -> str:
    return f"{len(changes)} {noun}" if len(changes) == 1 else f"{len(changes)} {noun}s"
