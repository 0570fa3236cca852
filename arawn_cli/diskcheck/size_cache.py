"""Reuse the sizes of scratch sessions from earlier checks if the sessions were not used since.

Only used with `remeasure_hours`, and only for Arawn 0.0, whose messages tell which sessions had a
turn since the last check. A session is measured again if it had one, if its fingerprint changed, or
if its size is too old.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from operator import attrgetter
from pathlib import Path
from zlib import crc32

from arawn_cli.arawn.layout import MESSAGES, V0, WORKSTREAMS
from arawn_cli.arawn.messages import EVERY_SESSION, LogPosition, MessageLog
from arawn_cli.arawn.root import Root, mounts_in, workstream_entries
from arawn_cli.context import RunContext
from arawn_cli.errors import StateUnavailableError
from arawn_cli.fs.mounts import require_answer
from arawn_cli.fs.openat import Identity, identity_of, opened_directory, opened_file
from arawn_cli.fs.usage import Usage
from arawn_cli.names import is_valid_id
from arawn_cli.state import State, key_of
from arawn_cli.state_file import MAX_INTEGER
from arawn_cli.timestamps import HOUR, SECOND

log = logging.getLogger(__name__)

_COLUMNS = "measured_at, fingerprint, apparent, allocated, files, directories, largest, newest"
_FINGERPRINT_DEPTH = 2  # levels below a session whose directories belong to its fingerprint
_FINGERPRINT_DIRECTORIES = 1000  # a session with more of them is always measured


@dataclass(frozen=True, slots=True)
class CachedSize:
    """The usage of a session at a time (nanoseconds), and its fingerprint at that time."""

    measured_at: int
    fingerprint: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class ReusedSizes:
    """The sizes that a check reuses, and the values that it needs to store its own.

    Attributes:
        now: time of the check in nanoseconds.
        stored: the sizes of sessions before the check.
        current: those of them that it reuses.
        fingerprints: of all sessions, from before anything was measured.
        positions: the ends of the messages of all workstreams, from before anything was measured.
    """

    now: int = 0
    stored: Mapping[str, CachedSize] = field(default_factory=dict)
    current: Mapping[str, CachedSize] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    positions: frozenset[LogPosition] = frozenset()

    @property
    def usages(self) -> dict[str, Usage]:
        """The reused usage of each session, with its age."""
        return {
            session: size.usage._replace(sample_age_secs=(self.now - size.measured_at) // SECOND) for session, size in self.current.items()
        }

    def store(self, connection: sqlite3.Connection, root: Path, measured: Mapping[str, Usage]) -> None:
        """Store the sizes of all sessions, reused or measured, for the next check."""
        key = key_of(root)
        fresh = [
            (key, session, self.now, self.fingerprints[session], *_numbers(usage))
            for session, usage in measured.items()
            if session not in self.current and session in self.fingerprints and is_cacheable(usage)
        ]
        gone = self.stored.keys() - self.current.keys()
        connection.executemany("DELETE FROM sizes WHERE root = ? AND session = ?", [(key, session) for session in gone])
        connection.executemany(
            f"INSERT OR REPLACE INTO sizes (root, session, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
            fresh,
        )
        connection.execute("DELETE FROM log_positions WHERE root = ?", (key,))
        connection.executemany(
            "INSERT INTO log_positions VALUES (?, ?, ?)",
            [(key, f"{position.identity[0]}:{position.identity[1]}", position.offset) for position in self.positions],
        )


def load_reusable(root: Root, context: RunContext, hours: int, now: int) -> ReusedSizes:
    """Return the sizes that can be reused at `now` (nanoseconds), at most so many hours old.

    Return none if it is unknown which sessions were used.
    """
    if root.layout is not V0:
        log.info("every session is measured: only Arawn 0.0 records which ones were used")
        return ReusedSizes()
    try:
        stored, before = _read(context.state, root.path)
        mounts = mounts_in(root)
        for names, is_own in mounts.items():
            if not is_own and len(names) == 1:  # a workstream, whose messages are read
                require_answer("/".join((str(root.path), WORKSTREAMS, *names)), context.stopping)
        fingerprints = dict(_fingerprints(root, mounts))
        positions, used = _used_since(root, before, frozenset(fingerprints), context.stopping)
    except (StateUnavailableError, OSError) as error:
        log.info("every session is measured: %s", error)
        return ReusedSizes()
    current = {
        session: size
        for session, size in stored.items()
        if session in fingerprints and session not in used and is_current(session, size, fingerprints[session], now, hours * HOUR)
    }
    return ReusedSizes(now, stored, current, fingerprints, positions)


def _read(state: State, root: Path) -> tuple[dict[str, CachedSize], list[LogPosition]]:
    """Return the stored sizes of a root by session, and the ends of all messages at that time."""
    key = (key_of(root),)
    sizes = {
        session: CachedSize(measured_at, fingerprint, Usage(*numbers))
        for session, measured_at, fingerprint, *numbers in state.select(f"SELECT session, {_COLUMNS} FROM sizes WHERE root = ?", key)  # noqa: S608
    }
    identities = state.select("SELECT identity, position FROM log_positions WHERE root = ?", key)
    return sizes, [LogPosition(_identity(text), position) for text, position in identities]


def _identity(text: str) -> Identity:
    device, inode = text.split(":")
    return int(device), int(inode)


def _numbers(usage: Usage) -> tuple[int, int, int, int, int, int | None]:
    return usage.apparent_bytes, usage.allocated_bytes, usage.files, usage.directories, usage.largest_file_bytes, usage.newest_mtime


def is_cacheable(usage: Usage) -> bool:
    """Whether a size is complete, fits into the state file, and has no file with a name elsewhere.

    A session that cleanup was moving at that moment measures as empty: its size is not cacheable.
    """
    fits = all(abs(number or 0) <= MAX_INTEGER for number in _numbers(usage))
    return fits and usage.complete and usage.directories > 0 and not (usage.linked or usage.other_filesystems or usage.obstacles)


def is_current(session: str, size: CachedSize, fingerprint: str, now: int, period: int) -> bool:
    """Whether a size is valid at `now`: the fingerprint is the same, and the size is not too old.

    The age limit is between half a period and a whole one and depends on the session, so that not
    all sessions are measured in the same check.
    """
    max_age = period // 2 + period // 2 * crc32(session.encode()) // 2**32
    return fingerprint == size.fingerprint and 0 <= now - size.measured_at < max_age


# ---- Signs of use


def fingerprint(parent: int, name: str) -> str | None:
    """Return a digest of names, inodes and ctimes of a session's directories, two levels deep.

    An entry that is added, removed or renamed in one of them changes the digest, also if an mtime
    is set back (rsync, tar). Return None for a session with too many directories.

    Raises:
        OSError: a directory cannot be read.
    """
    digest = blake2b(os.fsencode(_stamp(name, os.stat(name, dir_fd=parent, follow_symlinks=False))), digest_size=16)
    listed: list[tuple[str, ...]] = [(name,)]
    count = 1
    for path in listed:
        with opened_directory(parent, *path) as directory:
            inner = _directories(directory, _FINGERPRINT_DIRECTORIES + 1 - count)
            count += len(inner)
            if count > _FINGERPRINT_DIRECTORIES:
                return None
            stamps = [_stamp(entry.name, entry.stat(follow_symlinks=False)) for entry in inner]
        digest.update(os.fsencode("".join((*stamps, "/"))))  # no name contains a slash, so it ends the directory
        if len(path) < _FINGERPRINT_DEPTH:
            listed += [(*path, entry.name) for entry in inner]
    return digest.hexdigest()


def _stamp(name: str, status: os.stat_result) -> str:
    return f"{name}\0{status.st_dev} {status.st_ino} {status.st_ctime_ns};"


def _directories(parent: int, most: int | None = None) -> list[os.DirEntry[str]]:
    """Return the first `most` directories in an open one, by name."""
    with os.scandir(parent) as listing:
        found = islice((entry for entry in listing if entry.is_dir(follow_symlinks=False)), most)
        return sorted(found, key=attrgetter("name"))


def _fingerprints(root: Root, mounts: Mapping[tuple[str, ...], bool]) -> Iterator[tuple[str, str]]:
    """Yield the fingerprint of each session without a foreign mount in it, which may hang."""
    depth = len(root.layout.sessions) + 1
    with_mount = {names[:depth] for names, is_own in mounts.items() if not is_own}
    try:
        with opened_directory(root.workstreams, *root.layout.sessions) as directory:
            for name in (entry.name for entry in _directories(directory)):
                if not is_valid_id(name) or (*root.layout.sessions, name) in with_mount:
                    continue
                try:
                    digest = fingerprint(directory, name)
                except OSError as error:  # measuring the session reports the failure
                    log.debug("no fingerprint of %s: %s", name, error)
                    continue
                if digest is not None:
                    yield name, digest
    except FileNotFoundError:
        return


def _used_since(
    root: Root, positions: Iterable[LogPosition], sessions: frozenset[str], stopping: Callable[[], bool]
) -> tuple[frozenset[LogPosition], set[str]]:
    """Return the ends of all messages, and the sessions with a turn since `positions`.

    All sessions count as used if one of the files is new, was replaced or does not exist any more.
    """
    known = {position.identity: position for position in positions}
    ends: set[LogPosition] = set()
    used: set[str] = set()
    for workstream in workstream_entries(root)[0]:
        try:
            with opened_directory(root.workstreams, workstream) as directory, opened_file(MESSAGES, directory) as descriptor:
                since = known.pop(identity_of(os.fstat(descriptor)), None)
                if since is None or os.fstat(descriptor).st_size < since.offset:
                    used |= sessions
                    since = None
                messages = MessageLog(MESSAGES, sessions, since)
                ends.add(messages.read(descriptor, stopping))
        except FileNotFoundError:
            continue
        for name in (*messages.turns.newest, *messages.turns.damage):
            used |= sessions if name is EVERY_SESSION else {name}
    return frozenset(ends), used | (sessions if known or not ends else set())
