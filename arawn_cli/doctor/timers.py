"""Checks of what starts the jobs: timers, whether they are as configured, and whether the jobs did run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote

from arawn_cli import timestamps
from arawn_cli.config.loader import Config
from arawn_cli.doctor.findings import ROOT, Finding, Shell, advice, fail, ok, warn
from arawn_cli.events import Condition, JobName, RunResult, ScheduleStatus
from arawn_cli.runs import TOLERANCE
from arawn_cli.schedule.cron import CRON_FILE, START_CRON, cron_runs
from arawn_cli.schedule.install import Place
from arawn_cli.schedule.intervals import period
from arawn_cli.schedule.permissions import inaccessible_files, inaccessible_program
from arawn_cli.schedule.settings import Job, Scheduler, Scope, suffixed, token_warning
from arawn_cli.schedule.status import (
    INSTALL,
    InstalledPlace,
    JobStatus,
    LastRun,
    StatusInput,
    is_healthy,
    last_run_of,
    state_directory_of,
    statuses,
)
from arawn_cli.schedule.systemctl import systemd_runs
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.timestamps import SECOND

# A job may be late by its random delay and by a long run, and a machine needs its time to start.
_PERIODS_UNTIL_OVERDUE = 2


_GRACE_SECS = 600


_MAILERS = "/usr/sbin:/usr/lib:/usr/bin:/sbin:/bin"


def start(each: InstalledPlace, job: JobName, shell: Shell) -> str:
    """The command that runs a job now as its timer would."""
    if each.place.scheduler is Scheduler.CRON:
        return shell.tool(job, account=each.settings.account.name)
    service = f"{suffixed(f'arawn-{job}', each.settings.root_name)}.service"
    return shell.as_root(f"systemctl start {service}") if each.place.scope is Scope.SYSTEM else f"systemctl --user start {service}"


def timer_findings(found: list[InstalledPlace], config: Config, now: int, host: str, shell: Shell) -> Iterator[Finding]:
    """Whether timers are installed once, as configured, and enabled; and whether both jobs did their work lately."""
    if not found:
        fix = f"{shell.tool('schedule', 'install', account=ROOT)}  # or {shell.tool('schedule', 'install', '--user')}"
        yield fail("timers", "nothing that this account sees runs the jobs", fix)
        return
    if len(found) > 1:
        places = " and ".join(f"{each.place.scheduler} ({each.place.scope})" for each in found)
        last = found[-1].place
        fix = shell.tool("schedule", "remove", *last.flags, account=_account_of(last), located=False)
        yield warn("timers", f"the jobs are scheduled more than once: {places}", fix)
    for each in found:
        if each.place.scheduler is Scheduler.CRON:
            yield _cron_daemon(shell)
        if each.error is not None:
            yield fail("timers", each.error, "crontab -e")
            continue
        yield _account(each, shell)
        told = StatusInput(config, each.settings, now, host)
        for found_of_job in statuses(each.place, told):
            yield _timer(found_of_job, each, shell)
            yield _last_success(found_of_job.event, each, told, shell)


def token_findings(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    """What this shell has and a timer has not."""
    if warning := token_warning(config, environment):
        yield warn("token", warning, advice("set token_file in [maintenance.relay]"))


def state_directory(found: list[InstalledPlace], config: Config) -> Path:
    """Where the timers keep state; without any, where a run from this shell does."""
    return state_directory_of(found[0].place.scheduler, found[0].settings, config) if found else config.state_directory


def _account_of(place: Place) -> str | None:
    return ROOT if place.scope is Scope.SYSTEM else None


def _account(each: InstalledPlace, shell: Shell) -> Finding:
    """Whether the account that the jobs run as reaches what they need: root, who installs them, reaches everything."""
    name = each.settings.account.name
    if program := inaccessible_program(each.settings):
        fix = shell.as_root("python3 -m venv /opt/arawn-cli") + "  # and install the program there, for every account to run"
        return fail("account", f"{name} cannot run {program[0]}", fix)
    if files := inaccessible_files(each.settings, each.place.scheduler):
        detail = f"{name} has no access to {', '.join(map(str, files))}"
        return fail("account", detail, f"namei -l {quote(str(files[0]))}  # shows what keeps {name} out")
    return ok("account", f"the jobs run as {name}")


def _timer(found: JobStatus, each: InstalledPlace, shell: Shell) -> Finding:
    status = found.event
    check = f"{status.job} timer"
    if is_healthy(status):
        return ok(check, f"{status.scheduler} ({status.scope}), as configured, next run {status.next_run or 'not known'}")
    install = shell.tool("schedule", "install", *each.place.flags, account=_account_of(each.place))
    if found.problems:
        fixes = (problem.command for problem in found.problems)
        system = each.place.scope is Scope.SYSTEM
        lines = (install if fix.startswith(shlex.join(INSTALL)) else shell.as_root(fix) if system else fix for fix in fixes)
        return fail(check, "; ".join(map(str, found.problems)), "; ".join(dict.fromkeys(lines)))
    if status.installed is Condition.MISSING:
        return fail(check, f"not installed ({status.scheduler}, {status.scope})", install)
    if not status.enabled:
        return fail(check, "installed, and not enabled", install)
    return fail(check, "its last run failed", _look(status, each, shell))


def _look(status: ScheduleStatus, each: InstalledPlace, shell: Shell) -> str:
    """The command that shows why a run failed; what cron's runs said was mailed, so that one more has to say it."""
    if each.place.scheduler is Scheduler.CRON:
        return start(each, status.job, shell)
    return (
        f"journalctl {'--user ' if status.scope == Scope.USER else ''}-u {suffixed(f'arawn-{status.job}', each.settings.root_name)} -n 50"
    )


def _last_success(status: ScheduleStatus, each: InstalledPlace, told: StatusInput, shell: Shell) -> Finding:
    check, run = f"{status.job} last success", start(each, status.job, shell)
    job = next(job for job in each.settings.jobs if job.name == status.job)
    last = timestamps.parse(status.last_run) if status.result == RunResult.SUCCESS and status.last_run is not None else None
    try:
        ran = last_run_of(state_directory_of(each.place.scheduler, each.settings, told.config), status.job, each.settings.root)
    except (DatabaseUnreadableError, OSError) as error:
        if last is None:
            why = error.strerror if isinstance(error, OSError) else error
            return warn(check, f"not known, for its record cannot be read: {why}", shell.tool("doctor", account=ROOT))
        ran = None
    if ran is not None and ran.at > told.now + TOLERANCE:
        return _clock_went_back(status, each, ran, shell)
    last = (ran.success_at if ran is not None else None) or last
    since = last or each.place.store.installed_at(_file_of(each, job))
    due = since is not None and told.now > since + (_PERIODS_UNTIL_OVERDUE * period(job.interval) + _GRACE_SECS) * SECOND
    if last is None and due and since is not None:
        return fail(check, f"none since the timer was installed on {timestamps.render(since)[:19]}Z: it runs {job.interval}", run)
    if last is None:
        return warn(check, "no run is recorded yet", run)
    if due:
        return fail(check, f"{timestamps.render(last)[:19]}Z, which is overdue: it runs {job.interval}", run)
    return ok(check, f"{timestamps.render(last)[:19]}Z")


def _file_of(each: InstalledPlace, job: Job) -> str:
    return suffixed(CRON_FILE, job.root_name) if each.place.scheduler is Scheduler.CRON else f"{job.unit}.timer"


def _clock_went_back(status: ScheduleStatus, each: InstalledPlace, ran: LastRun, shell: Shell) -> Finding:
    check, when = f"{status.job} last success", f"it last ran on {timestamps.render(ran.at)[:19]}Z, which is yet to come"
    if status.job is not JobName.SCRATCH_CLEANUP:
        return warn(check, f"{when}: the clock is wrong, or was then", "date")
    again = shell.tool(status.job, "--force", account=each.settings.account.name)
    return fail(check, f"{when}: it refuses to run by a clock that went back", f"date; {again}  # once the clock is right")


def _cron_daemon(shell: Shell) -> Finding:
    if not cron_runs():
        return fail("cron", "no cron runs", shell.as_root("systemctl enable --now cron" if systemd_runs() else START_CRON))
    if shutil.which("sendmail", path=_MAILERS) is None:
        return warn("cron", "cron runs, and no sendmail is there to mail trouble with", shell.as_root("apt-get install default-mta"))
    return ok("cron", "cron runs")
