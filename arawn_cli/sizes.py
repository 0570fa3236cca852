"""Sizes of scratch sessions in the state file, so that a check may take from an earlier one what nobody has used since."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from zlib import crc32

from arawn_cli.messages import Mark
from arawn_cli.model import Identity, Usage
from arawn_cli.state import LARGEST, State, key_of
from arawn_cli.state_file import StateUnavailableError

_READ = (
    "SELECT session, measured_at, shape, apparent, allocated, files, directories, largest, newest FROM sizes "
    "WHERE root = ? AND min(apparent, allocated, files, directories, largest) >= 0"
)
_WRITE = (
    "INSERT OR REPLACE INTO sizes (root, session, measured_at, shape, apparent, allocated, files, directories, largest, newest) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Size:
    """What a session used at an instant (nanoseconds), and the shape that it had then; see `reuse.shape_of`."""

    measured_at: int
    shape: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Book:
    """The sizes of a root by session, and how far the messages had been read when they were written down."""

    sizes: Mapping[str, Size] = field(default_factory=dict)
    mark: Mark | None = None


def is_plain(usage: Usage) -> bool:
    """Whether a size says all, and the state file can hold it: nothing failed, and no file of it may have a name elsewhere.

    What was away for a moment, as cleanup moves a session that it then puts back, measures as nothing, and says nothing.
    """
    fits = all(abs(number or 0) <= LARGEST for number in _numbers(usage))
    return fits and usage.complete and usage.directories > 0 and not usage.linked and not usage.other_filesystems


def is_current(session: str, size: Size, shape: str, now: int, period: int) -> bool:
    """Whether a size still stands at `now`: the shape is the same, and its time is not up.

    That is after half a period to a whole one, a time of its own for each session: so they are measured anew in rotation.
    """
    lasts = period // 2 + period // 2 * crc32(session.encode()) // 2**32
    return shape == size.shape and 0 <= now - size.measured_at < lasts


def read(state: State, root: Path) -> Book:
    """The sizes of a root.

    Raises:
        StateUnavailableError: the state file cannot be read, or is damaged where SQLite does not see it.
    """
    key = (key_of(root),)
    rows = state.select(_READ, key)
    marks = cast("list[tuple[str, int]]", state.select("SELECT identity, position FROM marks WHERE root = ?", key))
    sizes = {
        session: Size(measured_at, shape, Usage(apparent, allocated, files, directories, largest, newest))
        for session, measured_at, shape, apparent, allocated, files, directories, largest, newest in cast(
            "list[tuple[str, int, str, int, int, int, int, int, int | None]]", rows
        )
    }
    try:
        return Book(sizes, next((Mark(_identity(text), position) for text, position in marks), None))
    except ValueError as error:
        raise StateUnavailableError(f"the state holds what this version does not know: {error}") from error


def store(connection: sqlite3.Connection, root: Path, before: Book, after: Book) -> None:
    """Writes what has changed from one check to the next."""
    key = key_of(root)
    gone = before.sizes.keys() - after.sizes.keys()
    connection.executemany("DELETE FROM sizes WHERE root = ? AND session = ?", [(key, session) for session in gone])
    changed = ((session, size) for session, size in after.sizes.items() if before.sizes.get(session) is not size)
    connection.executemany(_WRITE, [(key, session, size.measured_at, size.shape, *_numbers(size.usage)) for session, size in changed])
    if after.mark is None:
        connection.execute("DELETE FROM marks WHERE root = ?", (key,))
    elif after.mark != before.mark:
        connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", (key, "{}:{}".format(*after.mark.identity), after.mark.offset))


def _identity(text: str) -> Identity:
    device, _, inode = text.partition(":")
    try:
        return int(device), int(inode)
    except ValueError as error:
        raise StateUnavailableError(f"the state file names no file that is marked: {text!r}") from error


def _numbers(usage: Usage) -> tuple[int, int, int, int, int, int | None]:
    return usage.apparent_bytes, usage.allocated_bytes, usage.files, usage.directories, usage.largest_file_bytes, usage.newest_mtime
