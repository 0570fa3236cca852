"""Checks of what starts the jobs: timers, whether they are as configured, and whether the jobs did run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from arawn_cli import instants
from arawn_cli.config import Config
from arawn_cli.doctor.findings import Finding, fail, ok, warn
from arawn_cli.events import ScheduleStatus
from arawn_cli.instants import SECOND
from arawn_cli.schedule.effective import warnings_of
from arawn_cli.schedule.history import last_success, state_of
from arawn_cli.schedule.installed import Installed
from arawn_cli.schedule.intervals import period
from arawn_cli.schedule.settings import Scheduler, Scope
from arawn_cli.schedule.status import Told, is_well, statuses

# A job may be late by its random delay and by a long run, and a machine needs its time to start.
_PERIODS_UNTIL_OVERDUE = 2
_GRACE_SECS = 600
_INSTALL = "arawn-cli schedule install"


def timer_findings(found: list[Installed], told: Mapping[Scope, Told]) -> Iterator[Finding]:
    """Whether timers are installed once, as configured, and enabled; and whether both jobs did their work lately."""
    if not found:
        yield fail("timers", "nothing runs the jobs", f"sudo {_INSTALL}, or {_INSTALL} --user")
        return
    if len(found) > 1:
        places = " and ".join(f"{each.place.scheduler} ({each.place.scope})" for each in found)
        yield warn("timers", f"the jobs are scheduled more than once: {places}", f"arawn-cli schedule remove {found[-1].place.flags}")
    for each in found:
        if each.place.scheduler is Scheduler.CRON:
            yield _cron_daemon()
        for status in statuses(each.place, told[each.place.scope]):
            yield _timer(status, each)
            yield _overdue(status, each, told[each.place.scope])


def token_findings(config: Config, environment: Mapping[str, str]) -> Iterator[Finding]:
    """What this shell has and a timer has not."""
    for warning in warnings_of(config, environment):
        yield warn("token", warning, "set maintenance.relay.token_file")


def state_directory(found: list[Installed], config: Config) -> Path:
    """Where the timers keep state; without any, where a run from this shell does."""
    return state_of(found[0].place.scheduler, found[0].settings, config) if found else config.state_directory


def _timer(status: ScheduleStatus, each: Installed) -> Finding:
    check = f"{status.job} timer"
    if is_well(status):
        return ok(check, f"{status.scheduler} ({status.scope}), as configured, next run {status.next_run or 'not known'}")
    mend = f"{_INSTALL} {each.place.flags}"
    if status.problems:
        return fail(check, "; ".join(status.problems), mend)
    if status.installed == "missing":
        return fail(check, f"not installed ({status.scheduler}, {status.scope})", mend)
    if not status.enabled:
        return fail(check, "installed, and not enabled", mend)
    unit = f"arawn-{status.job}"
    return fail(check, "its last run failed", f"journalctl {'--user ' if status.scope == Scope.USER else ''}-u {unit} -n 50")


def _overdue(status: ScheduleStatus, each: Installed, told: Told) -> Finding:
    check = f"{status.job} last success"
    job = next(job for job in each.settings.jobs if job.name == status.job)
    last = last_success(state_of(each.place.scheduler, each.settings, told.config), job.name, each.settings.root)
    if last is None and status.result == "success" and status.last_run is not None:
        last = instants.parse(status.last_run)
    if last is None:
        return warn(check, "no run is recorded yet", f"arawn-cli schedule status {each.place.flags}")
    late = told.now - last - (_PERIODS_UNTIL_OVERDUE * period(job.interval) + _GRACE_SECS) * SECOND
    if late > 0:
        return fail(check, f"{instants.render(last)[:19]}Z, which is overdue: it runs {job.interval}", f"arawn-cli {job.name}")
    return ok(check, f"{instants.render(last)[:19]}Z")


def _cron_daemon() -> Finding:
    runs = any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"]))
    return (
        ok("cron", "cron runs")
        if runs
        else fail("cron", "no cron runs", "sudo systemctl enable --now cron" if os.path.isdir("/run/systemd/system") else "start cron")
    )
