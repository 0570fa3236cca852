"""Report which schedules are installed, and when and how their jobs last ran."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from arawn_cli import timestamps
from arawn_cli.command_events import Condition, RunResult, ScheduleStatus
from arawn_cli.config.loader import Config, Flags
from arawn_cli.errors import ArawnCliError, ConfigurationError, ExitCode
from arawn_cli.events import JobName, rendered
from arawn_cli.fs.permissions import Login, way_to
from arawn_cli.runs import READ, Run
from arawn_cli.schedule.cron import Daemon, MarkersError, running_cron, start_command
from arawn_cli.schedule.install import Place, bodies_of, place_of, units_of
from arawn_cli.schedule.intervals import cron_time
from arawn_cli.schedule.job_state import state_of_jobs
from arawn_cli.schedule.managed_files import condition_of
from arawn_cli.schedule.places import Scheduler, Scope, created_state
from arawn_cli.schedule.settings import Job, Settings, Shell, runtime_directory, settings_from
from arawn_cli.schedule.systemd import NOTIFIER, Manager, path_unit, state_name, systemd_runs
from arawn_cli.sqlite import DatabaseUnreadableError, query
from arawn_cli.state import key_of
from arawn_cli.state_file import FILE

log = logging.getLogger(__name__)

FIRST_RUN = "the first run"
_MICROSECOND = 1_000
_WORST_LAST = (Condition.CURRENT, Condition.OUTDATED, Condition.EDITED, Condition.FOREIGN, Condition.MISSING)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A place, and the settings that its files would be rendered from now.

    Attributes:
        state_directory: the state directory of the scheduled jobs. This shell's can be another.
        error: why the lines of this program cannot be found among those of the user; None if they
            can.
    """

    place: Place
    settings: Settings
    state_directory: Path
    error: str | None = None

    @property
    def creates_state(self) -> str | None:
        """Who creates a missing state directory; None if the sandbox keeps the jobs from that."""
        if self.place.scheduler is Scheduler.CRON:
            return FIRST_RUN
        if self.place.scope is Scope.USER:
            return None if self.settings.namespaces else FIRST_RUN
        return "systemd" if state_name(self.settings) is not None else None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the schedule of a job, and the command that fixes it."""

    text: str
    command: str

    def __str__(self) -> str:
        return f"{self.text}: run {self.command}"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The schedule of a job as an event, and its problems, which the event holds as text."""

    event: ScheduleStatus
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _SchedulerState:
    """A scheduler's record of a job; times in nanoseconds since the epoch."""

    is_enabled: bool
    next_run: int | None
    last_run: int | None
    result: RunResult | None
    problems: tuple[Problem, ...] = ()


def is_healthy(status: ScheduleStatus) -> bool:
    """Return whether a job will run as configured, and did not fail when it last ran."""
    return status.installed is Condition.CURRENT and status.enabled and status.result != RunResult.FAILED and not status.problems


def schedule_of(scheduler: Scheduler, settings: Settings, environment: Mapping[str, str]) -> Schedule:
    """Return the schedule of some settings, installed or not."""
    place = place_of(scheduler, settings.scope, settings, environment, settings.root_name)
    directory = settings.state or created_state(scheduler, settings.root_name, Path(settings.account.home))
    return Schedule(place, settings, directory)


def idle_problem(schedule: Schedule, shell: Shell) -> Problem | None:
    """Return why the scheduler starts no job of an installed schedule; None if it does."""
    place = schedule.place
    if place.manager is not None:
        if place.manager.is_running():
            return None
        if not systemd_runs():
            use_cron = shell.schedule("install", place.scope, "--cron", f"--{place.scope}")
            return Problem("systemd is not running, so no timer runs", f"{removal(place, shell)} && {use_cron}")
        return Problem("the systemd manager of this account cannot be reached", _command_to_reach(place.manager, shell))
    daemon = running_cron()
    if daemon is None:
        return Problem("cron is not running, so no job runs", shell.as_root(start_command(with_systemd=systemd_runs())))
    if daemon is Daemon.BUSYBOX and place.scope is Scope.SYSTEM:
        own = shell.arawn_cli("schedule", "install", "--cron", "--user", account=schedule.settings.account.name)
        return Problem("the cron that runs is busybox's, which does not read /etc/cron.d", f"{removal(place, shell)} && {own}")
    return None


def removal(place: Place, shell: Shell) -> str:
    """Return the command that removes the schedule of a place."""
    return shell.schedule("remove", place.scope, *place.flags)


def _command_to_reach(manager: Manager, shell: Shell) -> str:
    """Return the command after which the systemd manager of this account can be reached."""
    if not os.path.isdir(runtime_directory()):
        return shell.flags.typed(manager.linger_command() or f"loginctl user-status {os.getuid()}")
    return f"export XDG_RUNTIME_DIR={runtime_directory()}" if shell.is_of_account else shell.by_user_manager(f"{manager.systemctl} status")


def statuses(schedule: Schedule, now: int, shell: Shell) -> Iterator[JobStatus]:
    """Yield the status of each job; `now` is in nanoseconds since the epoch.

    Raises:
        ConfigurationError, ScheduleError: files cannot be rendered or read.
    """
    place, settings = schedule.place, schedule.settings
    install = shell.schedule("install", place.scope, *place.flags)
    idle = idle_problem(schedule, shell)
    bodies = bodies_of(place.scheduler, settings)
    conditions = {name: condition_of(place.store.read(name), body) for name, body in bodies.items()}
    for job in settings.jobs:
        units = (job.unit, path_unit(settings.root_name)) if job.name is JobName.SCRATCH_CLEANUP else (job.unit,)
        of_job = [condition for name, condition in conditions.items() if name.startswith(units) or place.manager is None]
        condition = max(of_job, key=_WORST_LAST.index)
        is_present = condition is not Condition.MISSING
        problems = [idle] if idle is not None and is_present else []
        if condition is Condition.OUTDATED:
            problems.append(Problem("the installed schedule does not match the configuration", install))
        if condition in (Condition.EDITED, Condition.FOREIGN):
            problems.append(Problem("the installed schedule was edited by hand and does not match the configuration", install))
        if place.manager is not None:
            starters = [name for name in bodies if name.startswith(units) and not name.endswith(".service")]
            state = _systemd_state(place.manager, job, starters, shell, is_present=is_present, is_running=idle is None)
            if is_present and conditions[NOTIFIER] is Condition.MISSING:
                problems.append(Problem(f"{NOTIFIER} is missing: nobody is notified of a failed run", install))
        else:
            state = _cron_state(schedule, job, now, is_running=is_present and idle is None)
        problems += state.problems
        event = ScheduleStatus(
            timestamp=timestamps.render(now),
            host=settings.host,
            root=settings.root_name,
            dry_run=False,
            job=job.name,
            scheduler=place.scheduler.value,
            scope=place.scope.value,
            installed=condition,
            enabled=state.is_enabled,
            next_run=rendered(state.next_run),
            last_run=rendered(state.last_run),
            result=state.result,
            problems=tuple(map(str, problems)),
        )
        yield JobStatus(event, tuple(problems))


def is_installed(place: Place) -> bool:
    """Return whether a file of a schedule exists in a place, whoever wrote it.

    Raises:
        ScheduleError: that cannot be found out.
    """
    names = place.store.names if place.manager is None else place.timers
    return any(place.store.read(name) is not None for name in names)


def installed_schedules(config: Config, environment: Mapping[str, str]) -> list[Schedule]:
    """Return every installed schedule of the root, those of the system first.

    Raises:
        RefusedError: the root is unsafe.
    """
    found = []
    for scope in Scope:
        try:
            settings = settings_from(config, scope)
        except ConfigurationError as error:  # the owner of the root has no account, so no system schedule runs for it
            log.debug("%s", error)
            continue
        for scheduler in Scheduler:
            schedule = schedule_of(scheduler, settings, environment)
            try:
                if is_installed(schedule.place):
                    found.append(schedule)
            except MarkersError as error:
                found.append(replace(schedule, error=str(error)))
            except ArawnCliError as error:
                log.debug("%s", error)
    return found


def last_run_of(state_directory: Path, job: JobName, root: Path) -> Run | None:
    """Return the last run of a job; None if none is recorded.

    Raises:
        DatabaseUnreadableError, OSError: the state cannot be read.
    """
    path = state_directory / FILE
    try:
        os.stat(path)
        way = way_to(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # SQLite, run by root, could be made to change other files: read the state as who decides about
    # it.
    if os.geteuid() == 0 and (way.is_shared or len(way.accounts) > 1):
        raise DatabaseUnreadableError(f"{path}: several accounts can replace it")
    with Login.of(*way.accounts).acting() if os.geteuid() == 0 and way.accounts else nullcontext():
        rows = query(path, READ, (job, key_of(root)))
    return next((Run(*row) for row in cast("list[tuple[int, int | None, int, int]]", rows)), None)


def unread_state_problem(config: Config, flags: Flags, environment: Mapping[str, str]) -> str | None:
    """Return a warning if jobs keep a history that this account does not use, or None."""
    directory = state_of_jobs(config, environment)
    if directory is None:
        return None
    with suppress(PermissionError):  # the home of another account is often closed
        if not directory.exists():
            return None
    command = shlex.join(("sudo", "arawn-cli", "report", *flags.located))
    return (
        f"the timers keep their history in {directory}, which this account cannot read: "
        f"trends and alerts are those of the runs of this account; {command} shows theirs"
    )


def _systemd_state(
    manager: Manager, job: Job, starters: Sequence[str], shell: Shell, *, is_present: bool, is_running: bool
) -> _SchedulerState:
    timer, service = f"{job.unit}.timer", f"{job.unit}.service"
    properties = manager.properties(service, "Result", "ExecMainStatus", "ExecMainExitTimestamp")
    enabled = {unit for unit in starters if manager.query("is-enabled", unit) == "enabled"}
    active = {unit for unit in starters if is_running and manager.query("is-active", unit) == "active"}
    problems = []
    if is_present and is_running:
        systemctl = shell.as_root(manager.systemctl) if manager.scope is Scope.SYSTEM else shell.by_user_manager(manager.systemctl)
        for unit in sorted(enabled ^ active):
            state = "is enabled but not running" if unit in enabled else "is running but not enabled"
            problems.append(Problem(f"{unit} {state}", f"{systemctl} enable --now {unit}"))
        for unit in dict.fromkeys(name for starter in starters for name in units_of(starter)):
            if manager.needs_reload(unit):
                problems.append(Problem(f"{unit} has changed since systemd read it", f"{systemctl} daemon-reload"))
        if command := manager.linger_command():
            problems.append(Problem("timers of this account stop when it logs out", shell.flags.typed(command)))
    exited = _nanoseconds(properties.get("ExecMainExitTimestamp", ""))
    triggered = _nanoseconds(manager.properties(timer, "LastTriggerUSec").get("LastTriggerUSec", ""))
    upcoming = manager.next_run(timer) if timer in active else None
    result = None
    if exited is not None:
        result = RunResult.SUCCESS if properties.get("Result") == "success" else RunResult.FAILED
        if result is RunResult.SUCCESS and properties.get("ExecMainStatus") == str(ExitCode.LOCKED.value):
            result = RunResult.LOCKED
    next_run = None if upcoming is None else upcoming * _MICROSECOND
    return _SchedulerState(enabled & active == set(starters), next_run, exited or triggered, result, tuple(problems))


def _cron_state(schedule: Schedule, job: Job, now: int, *, is_running: bool) -> _SchedulerState:
    settings, next_run = schedule.settings, None
    if is_running:
        time = cron_time(job.interval, job.name, settings.host, str(settings.root))
        next_run = time.next_after(now // timestamps.SECOND) * timestamps.SECOND
    try:
        last = last_run_of(schedule.state_directory, job.name, settings.root)
    except (DatabaseUnreadableError, OSError) as error:
        log.info("the last run of %s is not known: %s", job.name, error)
        last = None
    result = None
    if last is not None:
        result = RunResult.SUCCESS if last.last_run == last.last_success else RunResult.FAILED
    return _SchedulerState(is_running, next_run, last.last_run if last else None, result)


def _nanoseconds(text: str) -> int | None:
    """Return the nanoseconds since the epoch of systemd's `@seconds`; None without a time."""
    match = re.fullmatch(r"@(\d+)", text)
    return int(match[1]) * timestamps.SECOND if match and int(match[1]) else None
