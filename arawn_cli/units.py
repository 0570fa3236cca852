"""Parse and format sizes, counts and durations."""

from __future__ import annotations

import re
from decimal import Decimal

_DURATION_MAX = 100

DURATION_PATTERN = r"(?:\d+(?:s|min|m|h|d|w))+"
SIZE_PATTERN = r"\s*(\d+(?:\.\d+)?)\s*(?:([kKmMgGtTpPeE])([iI][bB]?|[bB])?|[bB]|bytes?)?\s*"

_UNIT_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}

CALENDAR_WORDS = {
    "minutely": 60,
    "hourly": 3600,
    "daily": 86_400,
    "weekly": 7 * 86_400,
    "monthly": 31 * 86_400,
    "quarterly": 92 * 86_400,
    "semiannually": 184 * 86_400,
    "yearly": 366 * 86_400,
    "annually": 366 * 86_400,
}
"""The calendar words of systemd.time(7), with the longest time that each can mean in seconds."""

_SIZE_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class WrittenSize(int):
    """A number of bytes, and how the user wrote it: `1500MB`."""

    text: str

    def __new__(cls, number: int, text: str) -> WrittenSize:
        """Return the number with its text."""
        written = super().__new__(cls, number)
        written.text = text.strip()
        return written


def seconds_of(duration: str) -> int:
    """Return the seconds of a duration such as `90s`, `15min`, `1h30m`, `7d` or `2w`.

    Raises:
        ValueError: the text is not such a duration. The message names the allowed form.
    """
    if len(duration) > _DURATION_MAX or not re.fullmatch(DURATION_PATTERN, duration, re.ASCII):
        raise ValueError("a duration such as 90s, 15min, 1h30m or 7d")
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)([a-z]+)", duration))


def bytes_of(text: str) -> int:
    """Return the bytes of a size such as `5GiB`, `5 GB` or `500M`.

    A letter without B is binary, as in systemd.

    Raises:
        ValueError: the text is not such a size. The message names the allowed form.
    """
    match = re.fullmatch(SIZE_PATTERN, text, re.ASCII)
    if match is None:
        raise ValueError('a size such as "5GiB", or a number of bytes')
    number, letter, ending = match.groups()
    base = 1000 if ending in ("b", "B") else 1024
    return int(Decimal(number) * (base ** ("kmgtpe".index(letter.lower()) + 1) if letter else 1))


def period(interval: str) -> int:
    """Return the longest time between two runs of a scheduled job, in seconds.

    `interval` is a value of `[maintenance.schedule]`.
    """
    return CALENDAR_WORDS.get(interval) or seconds_of(interval)


def count(number: int, noun: str) -> str:
    """Format a number with its noun: `1 session`, `1,234 sessions`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int) -> str:
    """Format bytes as the user wrote them, else in units that `bytes_of` reads: `1.5 MiB`."""
    if isinstance(number, WrittenSize):
        return number.text
    if number < 1024:
        return "1 byte" if number == 1 else f"{number} bytes"
    power = next((power for power in range(1, len(_SIZE_UNITS)) if number < 1024 ** (power + 1)), len(_SIZE_UNITS))
    return f"{number / 1024**power:.1f} {_SIZE_UNITS[power - 1]}"


def span(seconds: float) -> str:
    """Format a duration in seconds: `30 s`, `1.5 s`, `0.28 s`."""
    return f"{round(seconds, 1 if seconds >= 1 else 2):g} s"
