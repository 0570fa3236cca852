"""Which scratch sessions need not be measured again: those without a turn and with the same top directories since.

Opt-in (`remeasure_hours`), and for disk-check alone: what cleanup removes it has always measured itself.
"""

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

from arawn_cli import messages, sizes
from arawn_cli.database import DatabaseUnreadableError, session_rows
from arawn_cli.descriptors import opened_directory, opened_file
from arawn_cli.instants import SECOND
from arawn_cli.layout import MESSAGES, SESSIONS, Root
from arawn_cli.messages import Mark
from arawn_cli.model import SCRATCH, Usage
from arawn_cli.names import is_valid_id
from arawn_cli.sizes import Book, Size, is_current, is_plain
from arawn_cli.state import State
from arawn_cli.state_file import StateUnavailableError

log = logging.getLogger(__name__)

_DEPTH = 2  # levels below a session whose directories belong to its shape
_MOST_DIRECTORIES = 1000
_HOUR = 3600 * SECOND


@dataclass(frozen=True, slots=True)
class Reuse:
    """What a check takes from earlier ones: `current` by session, and what it needs to write down its own sizes.

    `shapes` are the shapes of all sessions, from before anything was measured.
    """

    now: int = 0
    before: Book = field(default_factory=Book)
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
        sizes.store(connection, root, self.before, self.after(measured))

    def after(self, measured: Mapping[str, Usage]) -> Book:
        """What is to be written down once the sessions of `measured` have been measured, or reused."""
        fresh = {
            session: Size(self.now, self.shapes[session], usage)
            for session, usage in measured.items()
            if session not in self.current and session in self.shapes and is_plain(usage)
        }
        return Book({**self.current, **fresh}, self.mark)


def reusable(root: Root, database: Path | None, state: State, hours: int, now: int) -> Reuse:
    """What can be reused at `now` (nanoseconds), of sizes no older than some hours; nothing in doubt."""
    try:
        before = sizes.read(state, root.path)
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


def shape_of(parent: int, name: str) -> str | None:
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
        return shape_of(parent, name)
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
