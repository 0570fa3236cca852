"""Convert intervals to the times of systemd, cron and Cloacina.

An interval is a value of `[maintenance.schedule]`: a duration such as `5m`, or a calendar word of
systemd.time(7). Intervals below a day are counted in UTC, or in a way that the change of a clock to
or from daylight saving time does not affect. Longer ones are times of the night in local time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.units import CALENDAR_WORDS, period, seconds_of

MINUTE = 60
HOUR = 3600
DAY = 86_400

_QUARTER = 15 * MINUTE
_WEEK = 7 * DAY
_FIRST_AFTER_BOOT = 15 * MINUTE
# Names, because schedulers differ in whether Sunday is 0 or 1.
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
# At night, but not in an hour that daylight saving time skips or repeats: 0 to 3.
_NIGHT_HOURS = (4, 5)
_LONGEST_DELAY = len(_NIGHT_HOURS) * HOUR

_Calendar = Literal["daily", "weekly", "monthly", "quarterly", "semiannually", "yearly"]
# The day of systemd (systemd.time(7)), and day, month and weekday of cron.
_DAYS: dict[_Calendar, tuple[str, str, str, str]] = {
    "daily": ("*-*-*", "*", "*", "*"),
    "weekly": ("Mon *-*-*", "*", "*", "1"),
    "monthly": ("*-*-01", "1", "*", "*"),
    "quarterly": ("*-01,04,07,10-01", "1", "1,4,7,10", "*"),
    "semiannually": ("*-01,07-01", "1", "1,7", "*"),
    "yearly": ("*-01-01", "1", "1", "*"),
}


def _normal(interval: str) -> int | _Calendar:
    """Return the seconds of an interval, or the word for one that is a number of calendar days."""
    match interval:
        case "minutely":
            return MINUTE
        case "hourly":
            return HOUR
        case "annually":
            return "yearly"
        case "daily" | "weekly" | "monthly" | "quarterly" | "semiannually" | "yearly":
            return interval
    seconds = seconds_of(interval)
    return "daily" if seconds == DAY else "weekly" if seconds == _WEEK else seconds


@dataclass(frozen=True, slots=True)
class CronTime:
    """When cron starts a line: its five time fields (crontab(5)), and a condition.

    Each field is `*`, `first-last/step`, a number, or numbers with commas. The times of the fields
    are local.

    Attributes:
        every: number of hours; of the hours since the epoch, only those with the remainder `rest`
            match. Fields alone would have a gap or a repetition when clocks change.
    """

    minute: str
    hour: str = "*"
    day: str = "*"
    month: str = "*"
    weekday: str = "*"
    every: int = 1
    rest: int = 0

    def __str__(self) -> str:
        return f"{self.minute} {self.hour} {self.day} {self.month} {self.weekday}"

    @property
    def condition(self) -> str | None:
        """Return the command of sh(1) that succeeds if the hour matches; None if each does."""
        return None if self.every == 1 else f"[ $(($(date +%s) / {HOUR} % {self.every})) = {self.rest} ]"

    def next_after(self, moment: int) -> int:
        """Return when cron next starts the line after a moment, in seconds since the epoch.

        A local time that is skipped does not count.
        """
        time = moment - moment % MINUTE + MINUTE
        while True:
            local = datetime.fromtimestamp(time)
            is_day = _matches(self.month, local.month) and _matches(self.day, local.day) and _matches(self.weekday, local.isoweekday() % 7)
            if not is_day:  # all offsets from UTC are multiples of a quarter of an hour
                time += _QUARTER - time % _QUARTER
            elif _matches(self.hour, local.hour) and _matches(self.minute, local.minute) and time // HOUR % self.every == self.rest:
                return time
            else:
                time += MINUTE


def delay(interval: str) -> int:
    """Return the longest random delay in seconds, which keeps machines from starting at once."""
    return min(max(period(interval) // 10, 1), _LONGEST_DELAY)


def calendar(interval: str) -> str | None:
    """Return the calendar expression (systemd.time(7)) of an interval.

    Return None if the interval is shorter than a day and does not divide a minute, hour or day
    evenly, or is a number of days without a word.

    systemd makes up for a missed calendar time; other intervals count from the previous run.
    """
    normal = _normal(interval)
    if isinstance(normal, str):
        return f"{_DAYS[normal][0]} {_NIGHT_HOURS[0]:02}:00:00"
    if normal < MINUTE and MINUTE % normal == 0:
        return f"*:*:0/{normal} UTC"
    minutes, odd = divmod(normal, MINUTE)
    if not odd and minutes < 60 and 60 % minutes == 0:
        return f"*:0/{minutes} UTC"
    hours, odd = divmod(normal, HOUR)
    return f"0/{hours}:00 UTC" if not odd and hours < 24 and 24 % hours == 0 else None


def first_after_boot(interval: str) -> int:
    """Return the seconds from boot to the first run of a job without a calendar expression."""
    return min(period(interval), _FIRST_AFTER_BOOT)


def cron_time(interval: str, job: JobName, host: str, root: str) -> CronTime:
    """Return when cron runs a job.

    The minute, and the hour of a job that runs less often than hourly, derive from a hash of host,
    root and job. They are always the same on one machine and differ between machines.

    Raises:
        ConfigurationError: cron has no evenly spaced times for this duration.
    """
    number = int.from_bytes(hashlib.sha256("\0".join((host, root, job)).encode("utf-8", "surrogateescape")).digest()[:8], "big")
    minute, hour = str(number % 60), str(_NIGHT_HOURS[number // 60 % len(_NIGHT_HOURS)])
    normal = _normal(interval)
    if isinstance(normal, str):
        return CronTime(minute, hour, *_DAYS[normal][1:])
    minutes, odd = divmod(normal, MINUTE)
    if odd:
        raise _inexpressible(interval, job, "cron counts in whole minutes")
    if minutes == 1:
        return CronTime("*")
    if minutes < 60 and 60 % minutes == 0:
        return CronTime(f"{number % minutes}-59/{minutes}")
    hours, odd = divmod(minutes, 60)
    if odd or hours >= 24 or 24 % hours:
        raise _inexpressible(interval, job, "cron has no evenly spaced times for it: minutes must divide an hour, and hours a day")
    return CronTime(minute, every=hours, rest=number // 60 % hours)


def cloacina_time(interval: str, job: JobName, root: str) -> str:
    """Return when Cloacina runs a job, in UTC: the second, then the fields of a crontab line.

    Minute and hour derive from a hash of root and job only, so that all machines of one database
    agree.

    Raises:
        ConfigurationError: no expression has this duration.
    """
    seconds = 0 if interval in CALENDAR_WORDS else seconds_of(interval)
    if 0 < seconds < MINUTE and MINUTE % seconds == 0:
        return f"*/{seconds} * * * * *"
    time = cron_time(interval, job, "", root)
    hour = time.hour if time.every == 1 else f"{time.rest}-23/{time.every}"
    weekday = time.weekday if time.weekday == "*" else _WEEKDAYS[int(time.weekday)]
    return f"0 {time.minute} {hour} {time.day} {time.month} {weekday}"


def _inexpressible(interval: str, job: JobName, why: str) -> ConfigurationError:
    key = f"maintenance.schedule.{job.replace('-', '_')}"
    return ConfigurationError(f"{key} = {interval!r}: {why}; set one such as 5m, 2h or daily, or use systemd timers")


def _matches(field: str, value: int) -> bool:
    if field == "*":
        return True
    if "/" in field:
        first, _, step = field.replace("-", "/").split("/")
        return value >= int(first) and (value - int(first)) % int(step) == 0
    return value in {int(part) for part in field.split(",")}
