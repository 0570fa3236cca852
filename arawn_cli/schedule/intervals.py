"""Convert intervals to the times of systemd, cron and Cloacina.

An interval is a value of `[maintenance.schedule]`: a duration such as `5m`, or a calendar word of
systemd.time(7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from arawn_cli.errors import ConfigurationError
from arawn_cli.events import JobName
from arawn_cli.units import CALENDAR_WORDS, period, seconds_of

MINUTE = 60
HOUR = 3600
DAY = 86_400

_LONGEST_DELAY = HOUR
_FIRST_AFTER_BOOT = 15 * MINUTE
# Names, because schedulers differ in whether Sunday is 0 or 1.
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
# At night, but not in an hour that daylight saving time skips or repeats, such as 2 or 3.
_NIGHT_HOURS = (4, 5)


@dataclass(frozen=True, slots=True)
class CronTime:
    """The five time fields of a crontab line (crontab(5)).

    Each is `*`, `first-last/step`, a number, or numbers with commas.
    """

    minute: str
    hour: str = "*"
    day: str = "*"
    month: str = "*"
    weekday: str = "*"

    def __str__(self) -> str:
        return f"{self.minute} {self.hour} {self.day} {self.month} {self.weekday}"

    def next_after(self, moment: datetime) -> datetime:
        """Return the first minute after a moment at which cron starts the line."""
        time = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        while not (is_day := self._day_matches(time)) or not (_matches(self.hour, time.hour) and _matches(self.minute, time.minute)):
            time = time + timedelta(minutes=1) if is_day else time.replace(hour=0, minute=0) + timedelta(days=1)
        return time

    def _day_matches(self, time: datetime) -> bool:
        return _matches(self.month, time.month) and _matches(self.day, time.day) and _matches(self.weekday, time.isoweekday() % 7)


def delay(interval: str) -> int:
    """Return the longest random delay in seconds, which keeps machines from starting at once."""
    return min(max(period(interval) // 10, 1), _LONGEST_DELAY)


def calendar(interval: str) -> str | None:
    """Return the calendar expression (systemd.time(7)) of an interval.

    Return None if the interval does not divide a minute, hour or day evenly.

    systemd makes up for a missed calendar time; other intervals count from the previous run.
    """
    if interval in CALENDAR_WORDS:
        return interval
    seconds = seconds_of(interval)
    if seconds < MINUTE and MINUTE % seconds == 0:
        return f"*:*:0/{seconds}"
    minutes, odd = divmod(seconds, MINUTE)
    if not odd and minutes < 60 and 60 % minutes == 0:
        return f"*:0/{minutes}"
    hours, odd = divmod(seconds, HOUR)
    if not odd and hours < 24 and 24 % hours == 0:
        return f"0/{hours}:00"
    return "daily" if seconds == DAY else None


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
    words = {
        "minutely": CronTime("*"),
        "hourly": CronTime(minute),
        "daily": CronTime(minute, hour),
        "weekly": CronTime(minute, hour, weekday="1"),
        "monthly": CronTime(minute, hour, "1"),
        "quarterly": CronTime(minute, hour, "1", "1,4,7,10"),
        "semiannually": CronTime(minute, hour, "1", "1,7"),
        "yearly": CronTime(minute, hour, "1", "1"),
        "annually": CronTime(minute, hour, "1", "1"),
    }
    return words.get(interval) or _cron_duration(interval, job, number, words)


def cloacina_time(interval: str, job: JobName, root: str) -> str:
    """Return when Cloacina runs a job, in UTC: the second, then the fields of a crontab line.

    Minute and hour derive from a hash of root and job only, so that all machines of one database
    agree.

    Raises:
        ConfigurationError: there is no expression for this duration.
    """
    seconds = 0 if interval in CALENDAR_WORDS else seconds_of(interval)
    if 0 < seconds < MINUTE and MINUTE % seconds == 0:
        return f"*/{seconds} * * * * *"
    time = cron_time(interval, job, "", root)
    return f"0 {time}" if time.weekday == "*" else f"0 {time.minute} {time.hour} {time.day} {time.month} {_WEEKDAYS[int(time.weekday)]}"


def _cron_duration(interval: str, job: JobName, number: int, words: Mapping[str, CronTime]) -> CronTime:
    minutes, odd = divmod(seconds_of(interval), MINUTE)
    if odd:
        raise _inexpressible(interval, job, "cron counts in whole minutes")
    if minutes == 1:
        return CronTime("*")
    if minutes < 60 and 60 % minutes == 0:
        return CronTime(f"{number % minutes}-59/{minutes}")
    hours, odd = divmod(minutes, 60)
    if odd or hours > 24 or 24 % hours:
        raise _inexpressible(interval, job, "cron has no evenly spaced times for it: minutes must divide an hour, and hours a day")
    if hours == 1:
        return words["hourly"]
    return words["daily"] if hours == 24 else CronTime(words["daily"].minute, f"{number // 60 % hours}-23/{hours}")


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
