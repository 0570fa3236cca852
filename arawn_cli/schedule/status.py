"""Report which schedules are installed and how their last runs ended."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from arawn_cli import timestamps
from arawn_cli.config.loader import Config, Flags
from arawn_cli.errors import ArawnCliError, ConfigurationError
from arawn_cli.events import Condition, JobName, RunResult, ScheduleStatus, rendered
from arawn_cli.schedule.cron import CRON_FILE, START_CRON, cron_runs
from arawn_cli.schedule.install import Place, bodies_of, place_of, units_of
from arawn_cli.schedule.intervals import cron_time
from arawn_cli.schedule.managed_files import TangledError
from arawn_cli.schedule.settings import Job, Scheduler, Scope, Settings, settings_from, suffixed
from arawn_cli.schedule.systemctl import Manager
from arawn_cli.schedule.systemd import NOTIFIER, STATE, SYSTEM_STATE, state_name
from arawn_cli.schedule.user_crontab import BLOCK
from arawn_cli.sqlite import DatabaseUnreadableError, query
from arawn_cli.state import FILE, StateUnavailableError, key_of

log = logging.getLogger(__name__)


def state_of(scheduler: Scheduler, settings: Settings, config: Config) -> Path:
    """The state directory that the jobs of a schedule use, which is not always this shell's."""
    if settings.state is not None:
        return settings.state
    if scheduler is Scheduler.SYSTEMD:
        return SYSTEM_STATE / suffixed(STATE, settings.root_name)
    return Path(settings.account.home, ".local", "state", STATE) if settings.scope is Scope.SYSTEM else config.state_directory


def remembers(state_directory: Path, root: Path) -> bool:
    """Whether the state in a directory tells of a run on a root.

    Raises:
        StateUnavailableError: it cannot be read.
    """
    path = state_directory / FILE
    try:
        os.stat(path)
        return bool(query(path, "SELECT 1 FROM runs WHERE root = ?", (key_of(root),)))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (DatabaseUnreadableError, OSError) as error:
        raise StateUnavailableError(f"{path} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Ran:
    """When a job last ran on a root, and when it last did all its work, in nanoseconds since the epoch."""

    last_run: int
    last_success: int | None


def last_of(state_directory: Path, job: JobName, root: Path) -> Ran | None:
    """The last runs of a job; None where none is recorded.

    Raises:
        DatabaseUnreadableError, OSError: the record cannot be read.
    """
    path = state_directory / FILE
    if not path.exists():
        return None
    rows = query(path, "SELECT last_run, last_success FROM runs WHERE job = ? AND root = ?", (job, key_of(root)))
    return next((Ran(run, success if isinstance(success, int) else None) for run, success in rows if isinstance(run, int)), None)


@dataclass(frozen=True, slots=True)
class Installed:
    """A place with timers in it, and what they would be rendered from now; `tangled` says why they cannot be told apart."""

    place: Place
    settings: Settings
    tangled: str | None = None

    @property
    def is_made_by_systemd(self) -> bool:
        """Whether systemd makes the state directory."""
        by_systemd = self.place.scheduler is Scheduler.SYSTEMD and self.place.scope is Scope.SYSTEM
        return by_systemd and state_name(self.settings) is not None


def installed_places(config: Config, flags: Flags, environment: Mapping[str, str]) -> list[Installed]:
    """Every place that holds timers of the tool's, the machine's first.

    Raises:
        RefusedError: without a root nothing can be compared.
    """
    found = []
    for scope in Scope:
        try:
            settings = settings_from(config, flags, environment, scope)
        except ConfigurationError as error:  # the root is no account's, so that the machine has no timers for it
            log.debug("%s", error)
            continue
        for scheduler in Scheduler:
            place = place_of(scheduler, scope, settings, environment, config.root_name)
            try:
                if installed_anywhere(place):
                    found.append(Installed(place, settings))
            except TangledError as error:
                found.append(Installed(place, settings, str(error)))
            except ArawnCliError as error:
                log.debug("%s", error)
    return found


def kept_by_timers(config: Config, flags: Flags, environment: Mapping[str, str]) -> tuple[Path, str | None]:
    """The state directory that tells of a root's past, and a sentence where the timers' is out of reach.

    It is this shell's own, unless timers remember the root elsewhere.
    """
    own = config.state_directory
    if config.maintenance.state_dir or environment.get("STATE_DIRECTORY"):
        return own, None
    try:
        found = installed_places(config, flags, environment)
    except ArawnCliError as error:
        log.debug("%s", error)
        return own, None
    for each in found:
        directory = state_of(each.place.scheduler, each.settings, config)
        try:
            if remembers(directory, each.settings.root):
                return directory, None
        except StateUnavailableError:
            return own, (
                f"the timers keep their history in {directory}, which this account cannot read: "
                f"trends and alerts are those of its own runs; {' '.join(('sudo arawn-cli report', *flags.named))} shows theirs"
            )
    return own, None


INSTALL = "arawn-cli schedule install"


_SERVICE = ("Result", "ExecMainStatus", "ExecMainExitTimestamp")


_MICROSECOND = 1_000


_LOCKED = "75"


_WORST = (Condition.CURRENT, Condition.OUTDATED, Condition.EDITED, Condition.FOREIGN, Condition.MISSING)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is not as it should be with a job, and the command that mends it."""

    text: str
    command: str

    def __str__(self) -> str:
        return f"{self.text}: run {self.command}"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job is scheduled, as its event says it, and the problems that the event has as text."""

    event: ScheduleStatus
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """Of what, and when, a status tells; `located` are the words of the command line that say where the configuration is."""

    config: Config
    settings: Settings
    now: int
    host: str
    located: tuple[str, ...] = ()

    def install(self, place: Place) -> str:
        """The command that installs anew."""
        return shlex.join((*INSTALL.split(), *place.flags.split(), *self.located))


def statuses(place: Place, told: Told) -> Iterator[JobStatus]:
    """The status of each job in a place; nothing is changed."""
    conditions = place.store.conditions(bodies_of(place.scheduler, told.settings))
    for job in told.settings.jobs:
        own = [condition for name, condition in conditions.items() if name.startswith(job.unit) or place.manager is None]
        condition = max(own, key=_WORST.index)
        yield _of_systemd(place, place.manager, told, job, condition) if place.manager else _of_cron(place, told, job, condition)


def is_well(status: ScheduleStatus) -> bool:
    """Whether a job will run as configured, and did when it last ran."""
    return status.installed is Condition.CURRENT and status.enabled and status.result != RunResult.FAILED and not status.problems


def installed_anywhere(place: Place) -> bool:
    """Whether anything of the tool's, or by its names, is in a place."""
    names = (BLOCK, suffixed(CRON_FILE, place.root_name)) if place.manager is None else place.timers
    return any(place.store.text(name) is not None for name in names)


def _of_systemd(place: Place, manager: Manager, told: Told, job: Job, condition: Condition) -> JobStatus:
    timer, service = f"{job.unit}.timer", f"{job.unit}.service"
    found = manager.properties(service, _SERVICE)
    enabled = manager.state("is-enabled", timer) == "enabled"
    running = manager.answers() and manager.state("is-active", timer) == "active"
    problems: list[Problem] = []
    if condition is not Condition.MISSING:
        problems += _problems(condition, told.install(place))
        problems += _unready(place, manager, timer, told, enabled=enabled, running=running)
    trigger = manager.properties(timer, ["LastTriggerUSec"]).get("LastTriggerUSec", "")
    last = _seconds(found.get("ExecMainExitTimestamp", "")) or _seconds(trigger)
    upcoming = manager.next_run(timer) if running else None
    next_run = None if upcoming is None else upcoming * _MICROSECOND
    return _event(place, told, job, condition, enabled and running, next_run, last, _result(found), problems)


def _of_cron(place: Place, told: Told, job: Job, condition: Condition) -> JobStatus:
    settings, there, runs = told.settings, condition is not Condition.MISSING, cron_runs()
    time = cron_time(job.interval, job.name, settings.host, str(settings.root))
    # On the clock of the wall, which is cron's: an hour that is skipped or repeated meanwhile counts.
    upcoming = time.next_after(datetime.fromtimestamp(told.now / timestamps.SECOND))
    next_run = int(upcoming.timestamp()) * timestamps.SECOND if there and runs else None
    problems = list(_problems(condition, told.install(place))) if there else []
    if there and not runs:
        problems.append(Problem("no cron runs", START_CRON))
    try:
        ran = last_of(state_of(place.scheduler, settings, told.config), job.name, settings.root)
    except (DatabaseUnreadableError, OSError) as error:
        log.info("when %s last ran is not known: %s", job.name, error)
        ran = None
    if ran is None:
        return _event(place, told, job, condition, there and runs, next_run, None, None, problems)
    result = RunResult.SUCCESS if ran.last_run == ran.last_success else RunResult.FAILED
    return _event(place, told, job, condition, there and runs, next_run, ran.last_run, result, problems)


def _event(
    place: Place,
    told: Told,
    job: Job,
    condition: Condition,
    enabled: bool,
    next_run: int | None,
    last_run: int | None,
    result: RunResult | None,
    problems: list[Problem],
) -> JobStatus:
    event = ScheduleStatus(
        timestamp=timestamps.render(told.now),
        host=told.host,
        root=told.config.root_name,
        dry_run=False,
        job=job.name,
        scheduler=place.scheduler.value,
        scope=place.scope.value,
        installed=condition,
        enabled=enabled,
        next_run=rendered(next_run),
        last_run=rendered(last_run),
        result=result,
        problems=tuple(map(str, problems)),
    )
    return JobStatus(event, tuple(problems))


def _problems(condition: Condition, fix: str) -> Iterator[Problem]:
    if condition is Condition.OUTDATED:
        yield Problem("the installed schedule does not match the configuration", fix)
    if condition in (Condition.EDITED, Condition.FOREIGN):
        yield Problem("the installed schedule was edited by hand and does not match the configuration", fix)


def _unready(place: Place, manager: Manager, timer: str, told: Told, *, enabled: bool, running: bool) -> Iterator[Problem]:
    """Yield what keeps systemd from running the files as they are."""
    control = f"systemctl{' --user' if place.scope is Scope.USER else ''}"
    if enabled != running and manager.answers():
        state = "is enabled but not running" if enabled else "is running but not enabled"
        yield Problem(f"{timer} {state}", f"{control} enable --now {timer}")
    for unit in units_of(timer):
        if manager.is_behind(unit):
            yield Problem(f"{unit} has changed since systemd read it", f"{control} daemon-reload")
    if place.store.text(NOTIFIER) is None:
        yield Problem(f"{NOTIFIER} is missing: nobody is notified of a failed run", told.install(place))
    if fix := manager.lingering():
        yield Problem("timers of this account stop when it logs out", fix)


def _result(found: Mapping[str, str]) -> RunResult | None:
    if not _seconds(found.get("ExecMainExitTimestamp", "")):
        return None
    if found.get("Result") != "success":
        return RunResult.FAILED
    return RunResult.LOCKED if found.get("ExecMainStatus") == _LOCKED else RunResult.SUCCESS


def _seconds(text: str) -> int | None:
    """Nanoseconds of systemd's `@seconds`, or None."""
    match = re.fullmatch(r"@(\d+)", text)
    return int(match[1]) * timestamps.SECOND if match and int(match[1]) else None
