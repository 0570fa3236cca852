"""Reuse session sizes from earlier checks where nothing has changed."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import cast
from zlib import crc32

from arawn_cli.arawn import messages
from arawn_cli.arawn.database import session_rows
from arawn_cli.arawn.layout import MESSAGES, SCRATCH, SESSIONS, Root
from arawn_cli.arawn.messages import Mark
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import Identity, opened_directory, opened_file
from arawn_cli.names import is_valid_id
from arawn_cli.sqlite import DatabaseUnreadableError
from arawn_cli.state import MAX_INTEGER, State, StateUnavailableError, key_of
from arawn_cli.timestamps import SECOND

log = logging.getLogger(__name__)

_READ = (
    "SELECT session, measured_at, fingerprint, apparent, allocated, files, directories, largest, newest FROM sizes "
    "WHERE root = ? AND min(apparent, allocated, files, directories, largest) >= 0"
)


_WRITE = (
    "INSERT OR REPLACE INTO sizes (root, session, measured_at, fingerprint, apparent, allocated, files, directories, largest, newest) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Size:
    """What a session used at an instant (nanoseconds), and the shape that it had then; see `reuse.fingerprint`."""

    measured_at: int
    shape: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class SizeCache:
    """The sizes of a root by session, and how far the messages had been read when they were written down."""

    sizes: Mapping[str, Size] = field(default_factory=dict)
    mark: Mark | None = None


def is_cacheable(usage: Usage) -> bool:
    """Whether a size says all, and the state file can hold it: nothing failed, and no file of it may have a name elsewhere.

    What was away for a moment, as cleanup moves a session that it then puts back, measures as nothing, and says nothing.
    """
    fits = all(abs(number or 0) <= MAX_INTEGER for number in _numbers(usage))
    return fits and usage.complete and usage.directories > 0 and not usage.linked and not usage.other_filesystems


def is_current(session: str, size: Size, shape: str, now: int, period: int) -> bool:
    """Whether a size still stands at `now`: the shape is the same, and its time is not up.

    That is after half a period to a whole one, a time of its own for each session: so they are measured anew in rotation.
    """
    lasts = period // 2 + period // 2 * crc32(session.encode()) // 2**32
    return shape == size.shape and 0 <= now - size.measured_at < lasts


def read(state: State, root: Path) -> SizeCache:
    """The sizes of a root.

    Raises:
        StateUnavailableError: the state file cannot be read, or is damaged where SQLite does not see it.
    """
    key = (key_of(root),)
    rows = state.select(_READ, key)
    marks = cast("list[tuple[str, int]]", state.select("SELECT identity, position FROM log_positions WHERE root = ?", key))
    sizes = {
        session: Size(measured_at, shape, Usage(apparent, allocated, files, directories, largest, newest))
        for session, measured_at, shape, apparent, allocated, files, directories, largest, newest in cast(
            "list[tuple[str, int, str, int, int, int, int, int, int | None]]", rows
        )
    }
    try:
        return SizeCache(sizes, next((Mark(_identity(text), position) for text, position in marks), None))
    except ValueError as error:
        raise StateUnavailableError(f"the state holds what this version does not know: {error}") from error


def store(connection: sqlite3.Connection, root: Path, before: SizeCache, after: SizeCache) -> None:
    """Writes what has changed from one check to the next."""
    key = key_of(root)
    gone = before.sizes.keys() - after.sizes.keys()
    connection.executemany("DELETE FROM sizes WHERE root = ? AND session = ?", [(key, session) for session in gone])
    changed = ((session, size) for session, size in after.sizes.items() if before.sizes.get(session) is not size)
    connection.executemany(_WRITE, [(key, session, size.measured_at, size.shape, *_numbers(size.usage)) for session, size in changed])
    if after.mark is None:
        connection.execute("DELETE FROM log_positions WHERE root = ?", (key,))
    elif after.mark != before.mark:
        connection.execute(
            "INSERT OR REPLACE INTO log_positions VALUES (?, ?, ?)", (key, "{}:{}".format(*after.mark.identity), after.mark.offset)
        )


def _identity(text: str) -> Identity:
    device, _, inode = text.partition(":")
    try:
        return int(device), int(inode)
    except ValueError as error:
        raise StateUnavailableError(f"the state file names no file that is marked: {text!r}") from error


def _numbers(usage: Usage) -> tuple[int, int, int, int, int, int | None]:
    return usage.apparent_bytes, usage.allocated_bytes, usage.files, usage.directories, usage.largest_file_bytes, usage.newest_mtime


_DEPTH = 2  # levels below a session whose directories belong to its shape


_MOST_DIRECTORIES = 1000


_HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Reuse:
    """What a check takes from earlier ones: `current` by session, and what it needs to write down its own sizes.

    `shapes` are the shapes of all sessions, from before anything was measured.
    """

    now: int = 0
    before: SizeCache = field(default_factory=SizeCache)
    current: Mapping[str, Size] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    mark: Mark | None = None

    @property
    def usages(self) -> dict[str, Usage]:
        """The usage of each session that is not measured again, with its age."""
        return {
            session: replace(size.usage, sample_age_secs=(self.now - size.measured_at) // SECOND) for session, size in self.current.items()
        }

    def store(self, connection: sqlite3.Connection, root: Path, measured: Mapping[str, Usage]) -> None:
        """Writes down the sizes of a root for the next check, in its transaction; see `after`."""
        store(connection, root, self.before, self.after(measured))

    def after(self, measured: Mapping[str, Usage]) -> SizeCache:
        """What is to be written down once the sessions of `measured` have been measured, or reused."""
        fresh = {
            session: Size(self.now, self.shapes[session], usage)
            for session, usage in measured.items()
            if session not in self.current and session in self.shapes and is_cacheable(usage)
        }
        return SizeCache({**self.current, **fresh}, self.mark)


def reusable(root: Root, database: Path | None, state: State, hours: int, now: int) -> Reuse:
    """What can be reused at `now` (nanoseconds), of sizes no older than some hours; nothing in doubt."""
    try:
        before = read(state, root.path)
        shapes = dict(_shapes(root))
        mark, used = _used_since(root, before.mark, frozenset(shapes))
        used |= _elsewhere(database, frozenset(shapes))
    except (StateUnavailableError, DatabaseUnreadableError, OSError) as error:
        log.info("every session is measured: %s", error)
        return Reuse()
    current = {
        session: size
        for session, size in before.sizes.items()
        if session in shapes and session not in used and is_current(session, size, shapes[session], now, hours * _HOUR)
    }
    return Reuse(now, before, current, shapes, mark)


def fingerprint(parent: int, name: str) -> str | None:
    """A digest of names, inodes and ctimes of a session's directory and those two levels below it.

    An entry that comes, goes or is renamed in one of them changes it, also where an mtime is put back (rsync, tar).
    None for a session with too many of them.

    Raises:
        OSError: one of them cannot be looked at.
    """
    digest = blake2b(os.fsencode(_stamp(name, os.stat(name, dir_fd=parent, follow_symlinks=False))), digest_size=16)
    listed: list[tuple[str, ...]] = [(name,)]
    count = 1
    for path in listed:
        with opened_directory(parent, *path) as directory:
            inner = _directories(directory, _MOST_DIRECTORIES + 1 - count)
            count += len(inner)
            if count > _MOST_DIRECTORIES:
                return None
            stamps = [_stamp(entry.name, entry.stat(follow_symlinks=False)) for entry in inner]
        digest.update(os.fsencode("".join((*stamps, "/"))))  # ends a directory: no name has it
        if len(path) < _DEPTH:
            listed += [(*path, entry.name) for entry in inner]
    return digest.hexdigest()


def _stamp(name: str, status: os.stat_result) -> str:
    return f"{name}\0{status.st_dev} {status.st_ino} {status.st_ctime_ns};"


def _directories(parent: int, most: int | None = None) -> list[os.DirEntry[str]]:
    """The directories in an open one, the first `most` of them, by name; each can be looked at as long as that is open."""
    with os.scandir(parent) as listing:
        found = islice((entry for entry in listing if entry.is_dir(follow_symlinks=False)), most)
        return sorted(found, key=attrgetter("name"))


def _shapes(root: Root) -> Iterator[tuple[str, str]]:
    try:
        with opened_directory(root.workstreams, SCRATCH, SESSIONS) as directory:
            for name in (entry.name for entry in _directories(directory)):
                shape = _shape(directory, name) if is_valid_id(name) else None
                if shape is not None:
                    yield name, shape
    except FileNotFoundError:
        return


def _shape(parent: int, name: str) -> str | None:
    try:
        return fingerprint(parent, name)
    except OSError as error:  # measuring it tells the failure
        log.debug("no shape of %s: %s", name, error)
        return None


def _used_since(root: Root, mark: Mark | None, sessions: frozenset[str]) -> tuple[Mark, set[str]]:
    """The mark of the messages as they are now, and the sessions that had a turn since the earlier one: without it, all.

    Raises:
        OSError: the messages cannot be read, or are other ones.
    """
    with opened_directory(root.workstreams, SCRATCH) as directory, opened_file(MESSAGES, directory) as descriptor:
        if mark is None:
            return messages.read(descriptor, (), 0).mark, set(sessions)
        try:
            turns = messages.read(descriptor, sessions, 0, mark)
        except messages.OtherMessagesError:
            return messages.read(descriptor, (), 0).mark, set(sessions)
        return turns.mark, set(turns.newest)


def _elsewhere(database: Path | None, sessions: frozenset[str]) -> set[str]:
    """The sessions whose turns are in another workstream's messages, by their row.

    Raises:
        DatabaseUnreadableError: the rows cannot be read.
    """
    rows = session_rows(database, sessions) if database is not None and sessions else {}
    return {row.id for row in rows.values() if row.workstream_id != SCRATCH}
