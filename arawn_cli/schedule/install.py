"""Install and remove schedules: where their files are, and how systemd starts and stops them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from arawn_cli.errors import RefusedError
from arawn_cli.events import JobName
from arawn_cli.fs.permissions import way_to
from arawn_cli.schedule.cron import BLOCK, CrontabStore, cron_block, cron_file, crontab_of, running_cron
from arawn_cli.schedule.managed_files import Change, FileStore, ScheduleError, SchedulerMissingError, StateDirectory, UsageError
from arawn_cli.schedule.places import Scheduler, Scope, cron_file_of, unit_of, units_directory
from arawn_cli.schedule.settings import Settings
from arawn_cli.schedule.systemd import NOTIFIER, Manager, path_unit, state_name, systemd_runs, units

_TIMER = re.compile(rf"arawn-({'|'.join(JobName)})(-.+)?\.timer")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the schedule of a root is installed. Cron needs no manager: it rereads its files."""

    scheduler: Scheduler
    scope: Scope
    store: FileStore | CrontabStore
    manager: Manager | None
    root_name: str | None = None

    @property
    def flags(self) -> tuple[str, str]:
        """Return the options that name the scheduler and the scope."""
        return f"--{self.scheduler}", f"--{self.scope}"

    @property
    def title(self) -> str:
        """Return the options that name the place and the root, for messages."""
        return " ".join(self.flags if self.root_name is None else (*self.flags, "--root", self.root_name))

    @property
    def timers(self) -> tuple[str, ...]:
        """Return the names of the timers."""
        return _timers(self.root_name)

    @property
    def starters(self) -> tuple[str, ...]:
        """Return the installed units that start others: the timers and a path unit."""
        path = path_unit(self.root_name)
        return (*self.timers, *([path] if self.manager is not None and self.store.read(path) is not None else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The options that name a scheduler and a scope; `user` is None without either option."""

    systemd: bool = False
    cron: bool = False
    user: bool | None = None
    cloacina: bool = False
    database: str | None = None

    def preferred(self) -> tuple[Scheduler, Scope]:
        """Return the named scheduler and scope.

        Default: systemd if it runs, and the system scope for root.

        Raises:
            UsageError: both schedulers are named.
        """
        if self.systemd and self.cron:
            raise UsageError("--systemd and --cron exclude each other: the jobs would run twice")
        use_cron = self.cron or not (self.systemd or systemd_runs())
        user = os.geteuid() != 0 if self.user is None else self.user
        return Scheduler.CRON if use_cron else Scheduler.SYSTEMD, Scope.USER if user else Scope.SYSTEM

    def places(self, environment: Mapping[str, str], root_name: str | None) -> Iterator[Place]:
        """Yield the places that the options allow, without settings, the preferred one first."""
        scheduler, scope = self.preferred()
        schedulers = [scheduler] if self.systemd or self.cron else sorted(Scheduler, key=lambda each: each is not scheduler)
        scopes = [scope] if self.user is not None else sorted(Scope, key=lambda each: each is not scope)
        for each in product(schedulers, scopes):
            yield place_of(*each, None, environment, root_name)


def place_of(scheduler: Scheduler, scope: Scope, settings: Settings | None, environment: Mapping[str, str], root_name: str | None) -> Place:
    """Return the place of a scheduler, a scope and a root; without settings, not for installing."""
    if scheduler is Scheduler.CRON:
        path = cron_file_of(root_name)
        store = FileStore(path.parent, (path.name,)) if scope is Scope.SYSTEM else crontab_of(root_name)
        return Place(scheduler, scope, store, None, root_name)
    directory = units_directory(scope, environment)
    state = _state_directory(settings) if settings else None
    return Place(scheduler, scope, FileStore(directory, _unit_names(directory, root_name), state), Manager(scope), root_name)


def bodies_of(scheduler: Scheduler, settings: Settings) -> dict[str, str]:
    """Return the text of each file, without its first line, by its name.

    Raises:
        ConfigurationError: a file cannot hold a path or an interval.
    """
    if scheduler is Scheduler.SYSTEMD:
        return units(settings)
    if settings.scope is Scope.SYSTEM:
        return {cron_file_of(settings.root_name).name: cron_file(settings)}
    return {BLOCK: cron_block(settings)}


def units_of(timer: str) -> tuple[str, str]:
    """Return the name of a timer and of its service; of a path unit, only its own, twice."""
    return timer, timer.replace(".timer", ".service")


def require_access(place: Place) -> None:
    """Refuse a place that this account cannot change.

    Raises:
        UsageError: the place belongs to root, or the manager of this account cannot be reached
            although systemd runs.
        SchedulerMissingError: cron is not installed.
        RefusedError: root would write units into the home of another account.
    """
    if place.scope is Scope.SYSTEM and os.geteuid() != 0:
        raise UsageError("only root can change the system's timers: use sudo, or --user for timers of this account")
    # Units can be enabled while systemd does not run.
    if place.manager is not None and systemd_runs() and not place.manager.is_running():
        raise UsageError(
            "the systemd manager of this account cannot be reached: log in as the account itself, not through sudo, with pam_systemd "
            f"(Debian: sudo apt install libpam-systemd), which sets XDG_RUNTIME_DIR=/run/user/{os.getuid()}; or use --cron"
        )
    if place.scope is Scope.USER and isinstance(place.store, FileStore) and os.geteuid() == 0 and way_to(place.store.directory).accounts:
        raise RefusedError(f"{place.store.directory} belongs to another account: as root, use --system, or run this as that account")
    cron_d = place.store.directory if place.scheduler is Scheduler.CRON and isinstance(place.store, FileStore) else None
    if cron_d is not None and not cron_d.is_dir() and running_cron() is None:
        raise SchedulerMissingError(f"{cron_d} does not exist, so cron is not installed: sudo apt-get install cron")


def units_to_start(place: Place) -> list[str]:
    """Return the starters that do not run as their files say, or would not after the next boot."""
    manager = place.manager
    if manager is None:
        return []
    is_running = manager.is_running()
    return [
        starter
        for starter in place.starters
        if manager.query("is-enabled", starter) != "enabled"
        or (is_running and (manager.query("is-active", starter) != "active" or any(map(manager.needs_reload, units_of(starter)))))
    ]


def apply_install(place: Place, changes: Sequence[Change]) -> None:
    """Write the files and start the timers.

    A timer that is running is only restarted if its own file changed.

    Raises:
        ScheduleError: a step failed; earlier ones are done.
    """
    place.store.apply(changes)
    manager = place.manager
    if manager is None:
        return
    restarted = {change.name for change in changes} | set(units_to_start(place))
    _reload(place, manager)
    manager.call("enable", *place.starters)
    if manager.is_running():
        for starter in place.starters:
            if starter in restarted:
                manager.call("restart", starter)


def apply_removal(place: Place, changes: Sequence[Change]) -> None:
    """Stop the timers whose files are removed, and remove the files.

    Raises:
        ScheduleError: a step failed; earlier ones are done.
    """
    manager = place.manager
    starters = [change.name for change in changes if change.name in place.starters]
    if manager is not None and starters:
        manager.call("disable", *starters)
        if manager.is_running():
            manager.call("stop", *starters)
            with suppress(ScheduleError):  # a timer that never elapsed has no stamp file
                manager.call("clean", "--what=state", *(name for name in starters if name in place.timers))
    place.store.apply(changes)
    if manager is not None:
        _reload(place, manager)


def _reload(place: Place, manager: Manager) -> None:
    if manager.is_running():
        manager.call("daemon-reload")
        with suppress(ScheduleError):  # fails if none of them has failed
            manager.call("reset-failed", *(units_of(timer)[1] for timer in place.timers))


def _timers(root_name: str | None) -> tuple[str, ...]:
    return tuple(f"{unit_of(job, root_name)}.timer" for job in JobName)


def _unit_names(directory: Path, root_name: str | None) -> tuple[str, ...]:
    """Return the units of a root, with the shared notifier if no other root has timers there."""
    timers = _timers(root_name)
    names = (*(name for timer in timers for name in units_of(timer)), path_unit(root_name))
    try:
        found = os.listdir(directory)
    except OSError:  # missing or unreadable; reading the files in it reports that
        found = []
    is_shared = any(_TIMER.fullmatch(name) and name not in timers for name in found)
    return names if is_shared else (*names, NOTIFIER)


def _state_directory(settings: Settings) -> StateDirectory | None:
    """Return the state directory that has to exist before a unit can write to it."""
    if settings.state is None or (settings.scope is Scope.SYSTEM and state_name(settings) is not None):
        return None
    return StateDirectory(settings.state, settings.owner)
