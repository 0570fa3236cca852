"""Format amounts, ages and times for people; `units` formats sizes and counts.

Instants are nanoseconds since the epoch. Screens show local time; events have UTC.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

from arawn_cli.config.loader import Flags
from arawn_cli.diskcheck.levels import SESSION
from arawn_cli.events import Filesystem, Unit
from arawn_cli.names import escape
from arawn_cli.timestamps import DAY, SECOND
from arawn_cli.units import count, size

Command = Callable[..., str]
"""Return a command line of this program from its words, for the configuration and root of a run."""

_AGES = tuple(days * DAY for days in (1, 7, 30, 90))

PLAIN: Command = Flags().command
"""The command line without options."""


def amount(number: int, unit: Unit) -> str:
    """Return bytes with their unit, or inodes with separators: `1.5 MiB`, `1,234`."""
    return size(number) if unit is Unit.BYTES else f"{number:,}"


def fullness(filesystem: Filesystem) -> str:
    """Return how full a filesystem is, in percent as df shows it, and the free space."""
    space = filesystem.used_bytes + filesystem.free_bytes
    if not space:
        return f"{filesystem.mountpoint} does not say how full it is"
    return f"{filesystem.mountpoint} is {-(-filesystem.used_bytes * 100 // space)}% full, {size(filesystem.free_bytes)} free"


def scope_name(scope: str, name: str) -> str:
    """Return a scope for people: a scratch session with its whole id, anything else by its name."""
    return escape(f"Scratch session {scope.removeprefix(SESSION)}" if scope.startswith(SESSION) else name)


def mounts_in_words(paths: Sequence[str]) -> str:
    """Return mounts that are not counted: the first by its path, the others as a number."""
    return paths[0] + (f" and {count(len(paths) - 1, 'other mount')}" if paths[1:] else " (a mount)")


def age(instant: int | None, now: int) -> str:
    """Return how long ago an instant was, in whole hours or days: `3 h ago`, `12 d ago`."""
    if instant is None:
        return "unknown"
    if instant > now:
        return "in the future"
    hours = (now - instant) // (3600 * SECOND)
    return f"{hours} h ago" if hours < 24 else f"{hours // 24} d ago"


def age_class(instant: int, now: int) -> int:
    """Return 0 for an instant less than a day ago, then 1 (7 days), 2 (30), 3 (90), or 4."""
    return bisect_right(_AGES, now - instant)


def day(instant: int) -> str:
    """Return the local day of an instant: `2026-03-18`."""
    return time.strftime("%Y-%m-%d", _local(instant))


def minute_with_zone(instant: int) -> str:
    """Return an instant to the minute, in local time: `2026-03-18 10:30 CET`."""
    return _with_zone(instant, "%Y-%m-%d %H:%M")


def second(instant: int) -> str:
    """Return an instant to the second, in local time: `2026-03-18 10:30:00 CET`."""
    return _with_zone(instant, "%Y-%m-%d %H:%M:%S")


def _with_zone(instant: int, form: str) -> str:
    local = _local(instant)
    # A $TZ that names no time zone means UTC, and has no name.
    return f"{time.strftime(form, local)} {local.tm_zone.strip() or 'UTC'}"


def _local(instant: int) -> time.struct_time:
    return time.localtime(instant // SECOND)
