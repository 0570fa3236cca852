"""Intervals in systemd's words and in cron's, against systemd itself where it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.schedule.intervals import CronTime, calendar, cron_time, delay
from arawn_cli.schedule.systemd import units
from tests.conftest import needs
from tests.support.contrib_settings import SYSTEM

needs_systemd = needs(shutil.which("systemd-analyze") is not None, "systemd-analyze")


def cron(interval: str) -> str:
    return str(cron_time(interval, JobName.DISK_CHECK, "host", "/srv/arawn"))


@pytest.mark.parametrize(
    ("interval", "line"),
    [
        ("5m", "S-59/5 * * * *"),
        ("1m", "* * * * *"),
        ("60s", "* * * * *"),
        ("minutely", "* * * * *"),
        ("1h", "M * * * *"),
        ("hourly", "M * * * *"),
        ("2h", "M T-23/2 * * *"),
        ("24h", "M H * * *"),
        ("1d", "M H * * *"),
        ("daily", "M H * * *"),
        ("weekly", "M H * * 1"),
        ("monthly", "M H 1 * *"),
        ("quarterly", "M H 1 1,4,7,10 *"),
        ("semiannually", "M H 1 1,7 *"),
        ("yearly", "M H 1 1 *"),
    ],
)
def test_an_interval_as_cron_writes_it(interval: str, line: str) -> None:
    minute, hour = cron("daily").split()[:2]
    found = cron(interval)
    assert re.sub(r"\d+(?=-59/5)", "S", re.sub(r"\d+(?=-23/2)", "T", found)) == line.replace("M", minute).replace("H", hour)
    assert 0 <= int(minute) < 60
    assert hour in ("4", "5")


@pytest.mark.parametrize(
    ("interval", "why"),
    [
        ("90s", "cron counts in whole minutes"),
        ("7m", "evenly spaced"),
        ("90m", "evenly spaced"),
        ("5h", "evenly spaced"),
        ("2d", "evenly spaced"),
    ],
)
def test_a_duration_that_cron_cannot_express_is_an_error_that_says_so(interval: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"maintenance.schedule.disk_check = '{interval}': .*{why}.*systemd timers"):
        cron(interval)


def test_machines_and_jobs_start_at_times_of_their_own_that_do_not_change() -> None:
    times = {str(cron_time("daily", JobName.SCRATCH_CLEANUP, f"host-{number}", "/srv/arawn")) for number in range(100)}
    assert len(times) > 50
    for interval, count in (("5m", 5), ("6h", 100)):
        times = {str(cron_time(interval, JobName.DISK_CHECK, f"host-{number}", "/srv/arawn")) for number in range(500)}
        assert len(times) >= count
    assert {str(cron_time("2m", JobName.DISK_CHECK, f"host-{number}", "/")) for number in range(50)} == {"0-59/2 * * * *", "1-59/2 * * * *"}
    assert cron("daily") == cron("daily")


@pytest.mark.parametrize(
    ("interval", "line"),
    [
        ("5m", "OnCalendar=*:0/5"),
        ("30s", "OnCalendar=*:*:0/30"),
        ("2h", "OnCalendar=0/2:00"),
        ("24h", "OnCalendar=daily"),
        ("weekly", "OnCalendar=weekly"),
        ("90s", "OnUnitActiveSec=90s"),
        ("7m", "OnUnitActiveSec=7m"),
        ("7d", "OnUnitActiveSec=7d"),
    ],
)
def test_an_interval_as_systemd_writes_it(interval: str, line: str) -> None:
    lines = units(replace(SYSTEM, check=interval))["arawn-disk-check.timer"].splitlines()
    assert line in lines
    assert ("Persistent=true" in lines) is line.startswith("OnCalendar")
    assert any(each.startswith("OnBootSec=") for each in lines) is line.startswith("OnUnitActiveSec")


@needs_systemd
def test_systemd_reads_the_calendars_as_they_are_meant() -> None:
    for interval, seconds in (("30s", 30), ("5m", 300), ("1h", 3600), ("6h", 21600), ("1d", 86400)):
        expression = calendar(interval)
        assert expression is not None
        shown = subprocess.run(
            ["systemd-analyze", "calendar", "--base-time=2026-03-01 12:34:56 UTC", "--iterations=2", expression],
            capture_output=True,
            text=True,
            check=True,
            env={"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        ).stdout
        first, second = (datetime.strptime(line.split(": ", 1)[1][4:23], "%Y-%m-%d %H:%M:%S") for line in _times(shown))
        assert (second - first).total_seconds() == seconds


def _times(shown: str) -> list[str]:
    return [
        line
        for line in shown.splitlines()
        if "Next elapse:" in line or line.strip().startswith("Iter. #2") or line.strip().startswith("Iteration #2")
    ]


@pytest.mark.parametrize(("interval", "seconds"), [("5m", 30), ("daily", 3600), ("24h", 3600), ("1s", 1), ("hourly", 360)])
def test_the_random_delay_is_a_tenth_of_the_interval_and_an_hour_at_most(interval: str, seconds: int) -> None:
    assert delay(interval) == seconds


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)), st.sampled_from(["5m", "1h", "6h", "daily", "weekly", "monthly", "yearly"])
)
def test_the_next_run_of_a_line_is_a_minute_that_it_matches_and_the_first(moment: datetime, interval: str) -> None:
    time = cron_time(interval, JobName.DISK_CHECK, "host", "/")
    found = time.next_after(moment)
    assert found > moment
    assert time.next_after(found.replace(second=0)) > found
    if interval == "5m":
        assert (found - moment).total_seconds() <= 300
    if interval == "weekly":
        assert (found.isoweekday(), (found - moment).days <= 7) == (1, True)
    if interval == "monthly":
        assert found.day == 1


def test_the_next_run_after_the_last_minute_of_a_year() -> None:
    assert CronTime("7", "3", "1", "1").next_after(datetime(2026, 1, 1, 3, 7)) == datetime(2027, 1, 1, 3, 7)
