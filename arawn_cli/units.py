"""Format sizes and durations."""

from __future__ import annotations

_SIZE_UNITS = ("kB", "MB", "GB", "TB", "PB", "EB")


def size(number: int) -> str:
    """Format a number of bytes in decimal units: `1.5 MB`."""
    if number < 1000:
        return "1 byte" if number == 1 else f"{number} bytes"
    power = next((power for power in range(1, len(_SIZE_UNITS)) if number < 1000 ** (power + 1)), len(_SIZE_UNITS))
    return f"{number / 1000**power:,.1f} {_SIZE_UNITS[power - 1]}"


def span(seconds: float) -> str:
    """A time as people say it: `30 s`, `1.5 s`, `0.28 s`."""
    return f"{round(seconds, 1 if seconds >= 1 else 2):g} s"
