"""What is to be installed where: a store with its texts, and the manager that starts it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.schedule.changes import AskedWronglyError, Store
from arawn_cli.schedule.crontab import CRON_FILE, cron_block, cron_file
from arawn_cli.schedule.files import FileStore, OwnDirectory
from arawn_cli.schedule.settings import Scheduler, Scope, Settings
from arawn_cli.schedule.systemctl import Manager, systemd_runs
from arawn_cli.schedule.units import NOTIFIER, state_name, units
from arawn_cli.schedule.user_crontab import BLOCK, CrontabStore

JOBS = ("scratch-cleanup", "disk-check")
TIMERS = tuple(f"arawn-{job}.timer" for job in JOBS)
UNIT_NAMES = (*TIMERS, *(f"arawn-{job}.service" for job in JOBS), f"{NOTIFIER}.service")

_SYSTEM_UNITS = Path("/etc/systemd/system")
_CRON_DIRECTORY = Path("/etc/cron.d")


def units_of(timer: str) -> tuple[str, str]:
    """A timer and its service."""
    return timer, f"{timer.removesuffix('.timer')}.service"


@dataclass(frozen=True, slots=True)
class Place:
    """Where timers are installed; `manager` is None for cron, which needs to be told nothing."""

    scheduler: Scheduler
    scope: Scope
    store: Store
    manager: Manager | None

    @property
    def flags(self) -> str:
        """The options that name it."""
        return f"--{self.scheduler} --{self.scope}"


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


def place_of(scheduler: Scheduler, scope: Scope, settings: Settings | None, environment: Mapping[str, str]) -> Place:
    """The place of a scheduler and scope; without settings, for looking and removing alone."""
    if scheduler is Scheduler.CRON:
        store: Store = (
            FileStore(_CRON_DIRECTORY, (CRON_FILE,)) if scope is Scope.SYSTEM else CrontabStore(pwd.getpwuid(os.getuid()).pw_name)
        )
        return Place(scheduler, scope, store, None)
    own = _own_directories(settings) if settings else ()
    watched = () if scope is Scope.SYSTEM else (_xdg(environment, "XDG_DATA_HOME", ".local/share") / "systemd" / "timers",)
    return Place(scheduler, scope, FileStore(_unit_directory(scope, environment), UNIT_NAMES, own, watched), Manager(scope))


def bodies_of(scheduler: Scheduler, settings: Settings) -> dict[str, str]:
    """The text of each file, without its first line.

    Raises:
        ConfigurationError: a path or an interval cannot be written there.
    """
    if scheduler is Scheduler.SYSTEMD:
        return units(settings)
    return {CRON_FILE: cron_file(settings)} if settings.scope is Scope.SYSTEM else {BLOCK: cron_block(settings)}


def require_rights(place: Place) -> None:
    """Makes sure that this account may change a place.

    Raises:
        AskedWronglyError: it may not, or no manager is there to be told.
    """
    if place.scope is Scope.SYSTEM and os.geteuid() != 0:
        raise AskedWronglyError("timers of the machine are root's to change: use sudo, or --user for timers of this account")
    if place.manager is not None:
        place.manager.require()
    if isinstance(place.store, FileStore) and place.scheduler is Scheduler.CRON and not place.store.directory.is_dir():
        raise AskedWronglyError(f"{place.store.directory} is not there: install cron, or use --systemd")


def _own_directories(settings: Settings) -> tuple[OwnDirectory, ...]:
    """The state directory, where the unit does not have systemd make it: a unit cannot write to one that is missing."""
    if settings.state is None or (settings.scope is Scope.SYSTEM and state_name(settings.state) is not None):
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
