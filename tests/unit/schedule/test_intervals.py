"""Intervals in systemd's words and in cron's, against systemd itself where it is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.schedule.intervals import DAY, HOUR, CronTime, calendar, cron_time, delay
from arawn_cli.schedule.systemd import units
from arawn_cli.units import period
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
        ("2h", "M * * * *"),
        ("24h", "M H * * *"),
        ("1d", "M H * * *"),
        ("daily", "M H * * *"),
        ("weekly", "M H * * 1"),
        ("7d", "M H * * 1"),
        ("monthly", "M H 1 * *"),
        ("quarterly", "M H 1 1,4,7,10 *"),
        ("semiannually", "M H 1 1,7 *"),
        ("yearly", "M H 1 1 *"),
    ],
)
def test_an_interval_as_cron_writes_it(interval: str, line: str) -> None:
    minute, hour = cron("daily").split()[:2]
    found = cron(interval)
    assert re.sub(r"\d+(?=-59/5)", "S", found) == line.replace("M", minute).replace("H", hour)
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
        times = {repr(cron_time(interval, JobName.DISK_CHECK, f"host-{number}", "/srv/arawn")) for number in range(500)}
        assert len(times) >= count
    assert {str(cron_time("2m", JobName.DISK_CHECK, f"host-{number}", "/")) for number in range(50)} == {"0-59/2 * * * *", "1-59/2 * * * *"}
    assert cron("daily") == cron("daily")


@pytest.mark.parametrize(
    ("interval", "line"),
    [
        ("5m", "OnCalendar=*:0/5 UTC"),
        ("30s", "OnCalendar=*:*:0/30 UTC"),
        ("2h", "OnCalendar=0/2:00 UTC"),
        ("24h", "OnCalendar=*-*-* 04:00:00"),
        ("hourly", "OnCalendar=0/1:00 UTC"),
        ("weekly", "OnCalendar=Mon *-*-* 04:00:00"),
        ("90s", "OnUnitActiveSec=90s"),
        ("7m", "OnUnitActiveSec=7m"),
        ("7d", "OnCalendar=Mon *-*-* 04:00:00"),
        ("3d", "OnUnitActiveSec=3d"),
    ],
)
def test_an_interval_as_systemd_writes_it(interval: str, line: str) -> None:
    lines = units(replace(SYSTEM, check=interval))["arawn-disk-check.timer"].splitlines()
    assert line in lines
    assert ("Persistent=true" in lines) is line.startswith("OnCalendar")
    assert any(each.startswith("OnBootSec=") for each in lines) is line.startswith("OnUnitActiveSec")


ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Kolkata",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "UTC",
)
YEAR_BEGINS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())


@cache
def changes_of(zone: str) -> list[int]:
    """Return the hours of 2026, in seconds since the epoch, in which the clocks of a zone
    change."""
    hours = [YEAR_BEGINS + hour * HOUR for hour in range(365 * 24)]
    offsets = [datetime.fromtimestamp(hour, ZoneInfo(zone)).utcoffset() for hour in hours]
    return [hour for hour, before, after in zip(hours[1:], offsets, offsets[1:], strict=False) if before != after]


def local(second: int, zone: str) -> datetime:
    return datetime.fromtimestamp(second, ZoneInfo(zone))


@contextmanager
def in_zone(zone: str) -> Iterator[None]:
    """Let a zone be that of the process."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = zone
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


def systemd_times(interval: str, zone: str, start: int, count: int) -> list[int]:
    """Return the next times of a calendar, as systemd counts them, in seconds since the epoch."""
    expression = calendar(interval)
    assert expression is not None
    shown = subprocess.run(
        ["systemd-analyze", "calendar", f"--base-time=@{start}", f"--iterations={count}", expression],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": zone, "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    ).stdout
    times = re.findall(r"\(in UTC\): \w{3} (\S+ \S+) UTC" if "(in UTC)" in shown else r"(?:elapse|#\d+): \w{3} (\S+ \S+) UTC", shown)
    return [int(datetime.fromisoformat(f"{found}+00:00").timestamp()) for found in times]


def cron_times(interval: str, zone: str, start: int, count: int) -> list[int]:
    """Return the next times of a crontab line. cron starts a line with `*` for the hour whenever
    the local time matches it."""
    line = cron_time(interval, JobName.DISK_CHECK, "host", f"/{interval}")
    found = [start]
    with in_zone(zone):
        for _ in range(count):
            found.append(line.next_after(found[-1]))
    return found[1:]


@needs_systemd
@pytest.mark.parametrize("times", [systemd_times, cron_times])
@settings(max_examples=40)
@given(st.sampled_from(ZONES), st.sampled_from(["1m", "5m", "10m", "30m", "1h", "hourly", "2h", "3h", "6h", "12h"]), st.data())
def test_an_interval_below_a_day_has_no_gap_and_no_repetition_when_clocks_change(
    times: Callable[[str, str, int, int], list[int]], zone: str, interval: str, data: st.DataObject
) -> None:
    assume(
        times is systemd_times or zone != "Australia/Lord_Howe" or period(interval) <= HOUR // 2
    )  # half an hour; cron has only local time
    start = data.draw(st.sampled_from(changes_of(zone) or [YEAR_BEGINS])) - data.draw(st.integers(0, 3 * period(interval)))
    found = times(interval, zone, start, 8)
    assert {after - before for before, after in pairwise(found)} == {period(interval)}
    assert 0 < found[0] - start <= period(interval)


@needs_systemd
@pytest.mark.parametrize("times", [systemd_times, cron_times])
@settings(max_examples=40)
@given(st.sampled_from(ZONES), st.sampled_from(["24h", "daily", "7d", "weekly", "monthly", "quarterly", "yearly"]), st.data())
def test_a_longer_interval_is_a_time_of_the_night_without_changes_of_clocks(
    times: Callable[[str, str, int, int], list[int]], zone: str, interval: str, data: st.DataObject
) -> None:
    start = data.draw(st.sampled_from(changes_of(zone) or [YEAR_BEGINS])) - data.draw(st.integers(0, 3 * DAY))
    found = times(interval, zone, start, 3)
    assert {4 <= local(each, zone).hour < 6 for each in found} == {True}
    assert len({local(each, zone).time() for each in found}) == 1  # local, also when the offset from UTC changes
    assert all(0 < after - before <= period(interval) + HOUR * 2 for before, after in pairwise([start, *found]))
    assert local(found[0] + delay(interval), zone).hour <= (6 if times is systemd_times else 8)


def test_a_condition_of_a_line_holds_in_the_hours_that_are_counted(tmp_path: Path) -> None:
    line = cron_time("6h", JobName.DISK_CHECK, "host", "/srv/arawn")
    assert line.condition is not None
    now = tmp_path / "date"
    now.write_text('#!/bin/sh\necho "$NOW"\n')
    now.chmod(0o755)
    start = line.next_after(YEAR_BEGINS)
    for hour in range(12):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "NOW": str(start + hour * HOUR)}
        assert (subprocess.run(["sh", "-c", line.condition], check=False, env=environment).returncode == 0) is (hour % 6 == 0)


@pytest.mark.parametrize(("interval", "seconds"), [("5m", 30), ("daily", 7200), ("24h", 7200), ("1s", 1), ("hourly", 360)])
def test_the_random_delay_is_a_tenth_of_the_interval_and_two_hours_at_most(interval: str, seconds: int) -> None:
    assert delay(interval) == seconds


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)), st.sampled_from(["5m", "1h", "6h", "daily", "weekly", "monthly", "yearly"])
)
def test_the_next_run_of_a_line_is_a_minute_that_it_matches_and_the_first(moment: datetime, interval: str) -> None:
    line = cron_time(interval, JobName.DISK_CHECK, "host", "/")
    start = int(moment.timestamp())
    found = line.next_after(start)
    assert 0 < found - start <= period(interval) + HOUR
    assert line.next_after(found - 60) == found
    assert line.next_after(found) > found


def test_the_next_run_after_the_last_minute_of_a_year() -> None:
    last = datetime(2026, 1, 1, 3, 7).timestamp()
    assert CronTime("7", "3", "1", "1").next_after(int(last)) == datetime(2027, 1, 1, 3, 7).timestamp()
