"""Parse and format times: whole nanoseconds since the Unix epoch, as in `st_mtime_ns`.

Arawn writes nine fractional digits, three more than `datetime` has. Times decide about deletions,
so they are compared as integers, without rounding.
"""

from __future__ import annotations

import calendar
import re
import time
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_FIRST = calendar.timegm((1, 1, 1, 0, 0, 0)) * SECOND
_EPOCH = date(1970, 1, 1)
_LAST = calendar.timegm((9999, 12, 31, 23, 59, 59)) * SECOND + SECOND - 1


def parse(text: str) -> int:
    """Parse an RFC 3339 time with any number of fractional digits into nanoseconds.

    Digits after the ninth are rounded up, so that a time never looks older than it is.

    Raises:
        ValueError: the text is not an RFC 3339 time, or its day does not exist.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time: {text[:64]!r}")
    hour, minute, second = int(match[4]), int(match[5]), int(match[6])
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError(f"no such time of day: {text[:64]!r}")
    seconds = _midnight(match[1], match[2], match[3]) + hour * 3600 + minute * 60 + second
    if match[9]:
        if int(match[10]) > 23 or int(match[11]) > 59:
            raise ValueError(f"no such offset: {text[:64]!r}")
        offset = int(match[10]) * 3600 + int(match[11]) * 60
        seconds -= offset if match[9] == "+" else -offset
    digits = match[7] or ""
    nanoseconds = int(digits[:9].ljust(9, "0")) + (1 if digits[9:].strip("0") else 0)
    return seconds * SECOND + nanoseconds


def render(instant: int) -> str:
    """Return a time as RFC 3339 in UTC with `Z`, to the microsecond, rounded down.

    A time outside the years 1 to 9999, which a file can have, becomes the nearest one inside.
    """
    instant = min(max(instant, _FIRST), _LAST)
    seconds, nanoseconds = divmod(instant, SECOND)
    return f"{_whole(seconds)}.{nanoseconds // 1000:06d}Z"


@lru_cache(maxsize=1024)  # a text for people and an event often have the same time
def _whole(seconds: int) -> str:
    """Return a time in whole seconds as RFC 3339, without its zone."""
    whole = time.gmtime(seconds)
    return f"{whole.tm_year:04d}-{time.strftime('%m-%dT%H:%M:%S', whole)}"


def minute(instant: int) -> str:
    """Return a time for people, to the minute: `2026-03-18 09:30 UTC`."""
    return f"{render(instant)[:16].replace('T', ' ')} UTC"


class Boot(NamedTuple):
    """The boot of the machine.

    Attributes:
        identity: the kernel's random id of it; None if it cannot be read, as in some containers.
        elapsed: time since then in nanoseconds, with the time that the machine was suspended.
    """

    identity: str | None
    elapsed: int


def current_boot() -> Boot:
    """Return the boot of the machine that is running now (proc_sys_kernel(5), clock_gettime(2))."""
    try:
        identity = _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        identity = ""
    return Boot(identity or None, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


@lru_cache(maxsize=1024)  # messages of one day follow each other
def _midnight(year: str, month: str, day: str) -> int:
    """Return the beginning of a day in UTC, in seconds.

    Raises:
        ValueError: the day does not exist.
    """
    try:
        return (date(int(year), int(month), int(day)) - _EPOCH).days * 86_400
    except ValueError as error:
        raise ValueError(f"no such day: {year}-{month}-{day}") from error


def latest(*instants: int | None) -> int | None:
    """Return the latest of the times that are not None, or None."""
    return max([instant for instant in instants if instant is not None], default=None)
