"""Check whether timers are installed as configured, and whether the jobs ran."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from shlex import quote

from arawn_cli import timestamps
from arawn_cli.command_events import Condition, RunResult, ScheduleStatus
from arawn_cli.doctor.findings import Finding, fail, ok, warn
from arawn_cli.events import JobName
from arawn_cli.fs.in_use import sees_all_accounts
from arawn_cli.output.format import minute_with_zone, second
from arawn_cli.schedule.cron import running_cron, start_command
from arawn_cli.schedule.places import CRON_FILE, Scheduler, Scope, suffixed
from arawn_cli.schedule.settings import Shell, inaccessible_files, inaccessible_program
from arawn_cli.schedule.status import (
    JobStatus,
    Schedule,
    idle_problem,
    is_healthy,
    last_run_of,
    removal,
    statuses,
)
from arawn_cli.schedule.systemd import systemd_runs
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.timestamps import SECOND
from arawn_cli.units import period

# A job may be late by its random delay and by a long run, and a machine needs time to start.
_PERIODS_UNTIL_OVERDUE = 2
_GRACE_SECS = 600

# Time synchronisation may set a clock back by seconds.
_CLOCK_TOLERANCE = 60 * SECOND

# Where cron looks for sendmail.
_MAILER_PATH = "/usr/sbin:/usr/lib:/usr/bin:/sbin:/bin"


def timer_findings(installed: list[Schedule], now: int, shell: Shell) -> Iterator[Finding]:
    """Check whether the jobs are scheduled once, as configured, and whether they succeeded."""
    if not installed:
        by_root = sees_all_accounts()
        fix = shell.schedule("install", Scope.SYSTEM) if by_root else shell.schedule("install", Scope.USER, "--user")
        if not systemd_runs() and running_cron() is None:
            fix = f"{shell.as_root(start_command(with_systemd=False))} && {fix}"
        # Not a failure: nothing is broken, and jobs may be started by hand or from another machine.
        yield warn("timers", "no timer or cron job starts the jobs of this root", fix)
        return
    if len(installed) > 1:
        places = " and ".join(f"{each.place.scheduler} ({each.place.scope})" for each in installed)
        yield warn("timers", f"the jobs are scheduled more than once: {places}", removal(installed[-1].place, shell))
    for each in installed:
        if each.place.scheduler is Scheduler.CRON:
            yield _cron_daemon(each, shell)
        if each.error is not None:
            yield fail("timers", each.error, shell.as_itself("crontab -e"))
            continue
        yield _account(each, shell)
        for status in statuses(each, now, shell):
            yield _timer(status, each, shell)
            yield _last_success(status.event, each, now, shell)


def run_command(each: Schedule, job: JobName, shell: Shell) -> str:
    """Return the command that runs a job now as its timer would."""
    if each.place.scheduler is Scheduler.CRON:
        return shell.arawn_cli(job, account=each.settings.account.name)
    service = f"{suffixed(f'arawn-{job}', each.settings.root_name)}.service"
    if each.place.scope is Scope.SYSTEM:
        return shell.as_root(f"systemctl start {service}")
    return shell.by_user_manager(f"systemctl --user start {service}")


def _cron_daemon(each: Schedule, shell: Shell) -> Finding:
    if problem := idle_problem(each, shell):
        return fail("cron", problem.text, problem.command)
    if shutil.which("sendmail", path=_MAILER_PATH) is None:
        return warn("cron", "running, but without sendmail it cannot mail problems", shell.as_root("apt-get install default-mta"))
    return ok("cron", "running")


def _account(each: Schedule, shell: Shell) -> Finding:
    """Check whether the account of the jobs can access the files that they need."""
    name = each.settings.account.name
    if program := inaccessible_program(each.settings):
        fix = shell.as_root("python3 -m venv /opt/arawn-cli") + "  # then install the program there, for every account"
        return fail("account", f"{name} cannot run {program[0]}", fix)
    if files := inaccessible_files(each.settings, each.place.scheduler):
        detail = f"{name} cannot access {', '.join(map(str, files))}"
        return fail("account", detail, f"namei -l {quote(str(files[0]))}  # shows what {name} lacks")
    return ok("account", f"the jobs run as {name}")


def _timer(found: JobStatus, each: Schedule, shell: Shell) -> Finding:
    status = found.event
    check = f"{status.job} timer"
    if is_healthy(status):
        next_run = "unknown" if status.next_run is None else minute_with_zone(timestamps.parse(status.next_run))
        return ok(check, f"{status.scheduler} ({status.scope}), as configured, next run {next_run}")
    if found.problems:
        fixes = dict.fromkeys(problem.command for problem in found.problems)
        return fail(check, "; ".join(map(str, found.problems)), "; ".join(fixes))
    install = shell.schedule("install", each.place.scope, *each.place.flags)
    if status.installed is Condition.MISSING:
        return fail(check, f"not installed ({status.scheduler}, {status.scope})", install)
    if not status.enabled:
        return fail(check, "installed, but not enabled", install)
    if each.place.scheduler is Scheduler.CRON:  # cron mailed the output of the run and kept none
        return fail(check, "its last run failed", run_command(each, status.job, shell))
    unit = suffixed(f"arawn-{status.job}", each.settings.root_name)
    is_user = each.place.scope is Scope.USER
    journal = shell.as_itself(f"journalctl --user -u {unit} -n 50") if is_user else shell.as_root(f"journalctl -u {unit} -n 50")
    return fail(check, "its last run failed", journal)


def _last_success(status: ScheduleStatus, each: Schedule, now: int, shell: Shell) -> Finding:
    check, run = f"{status.job} last success", run_command(each, status.job, shell)
    last = timestamps.parse(status.last_run) if status.result == RunResult.SUCCESS and status.last_run is not None else None
    try:
        recorded = last_run_of(each.state_directory, status.job, each.settings.root)
    except (DatabaseUnreadableError, OSError) as error:
        if last is None:
            reason = error.strerror if isinstance(error, OSError) else error
            return warn(check, f"unknown: its record cannot be read: {reason}", shell.doctor_as_root)
        recorded = None
    if recorded is not None and recorded.last_run > now + _CLOCK_TOLERANCE:
        detail = f"the last run is recorded for {second(recorded.last_run)}, which is in the future: the clock is wrong now, or was then"
        if status.job is JobName.SCRATCH_CLEANUP:
            detail += "; if it is right now, one cleanup may be refused, and the next one goes on"
        return warn(check, detail, "date")
    if recorded is not None and recorded.last_success is not None:
        last = recorded.last_success
    job = next(job for job in each.settings.jobs if job.name == status.job)
    file = suffixed(CRON_FILE, job.root_name) if each.place.scheduler is Scheduler.CRON else f"{job.unit}.timer"
    since = last or each.place.store.installed_at(file)
    overdue = since is not None and now > since + (_PERIODS_UNTIL_OVERDUE * period(job.interval) + _GRACE_SECS) * SECOND
    if last is not None and overdue:
        return fail(check, f"{second(last)}, overdue: it runs {job.interval}", run)
    if last is not None:
        return ok(check, second(last))
    if overdue and since is not None:
        return fail(check, f"none since the timer was installed on {second(since)}: it runs {job.interval}", run)
    return warn(check, "no run recorded yet", run)
