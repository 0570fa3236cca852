"""What is to be installed where: a store with its texts, and the manager that starts it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.schedule.changes import AskedWronglyError, NoSchedulerError, Store
from arawn_cli.schedule.crontab import CRON_FILE, cron_block, cron_file
from arawn_cli.schedule.files import FileStore, OwnDirectory
from arawn_cli.schedule.settings import Scheduler, Scope, Settings, suffixed
from arawn_cli.schedule.systemctl import Manager, systemd_runs
from arawn_cli.schedule.units import NOTIFIER, state_name, units
from arawn_cli.schedule.user_crontab import BLOCK, CrontabStore
from arawn_cli.vocabulary import JobName

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
    return own if any(_TIMER.fullmatch(name) and name not in timers for name in found) else (*own, f"{NOTIFIER}.service")


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
