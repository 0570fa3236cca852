"""The last turn of each session, from a `messages.jsonl` that a server appends to meanwhile.

The file is read backwards from its end. Arawn appends in the order of time, but
a clock can step, so one old line does not end the reading: a whole stretch of
nothing but old lines does.

A line that cannot be read (torn by a crash, overwritten, without a time) still counts for the session
that it names: its turn is no later than the lines after it, or than the file's mtime where
it is the last, and so is taken to be of that time. A torn line that names none is a turn that was not completed.
So is a line longer than any message, such as the hole that a crash can leave: it is never held in memory whole.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from arawn_cli import timestamps
from arawn_cli.fs.openat import Identity, identity_of

_BLOCK = 1 << 16


_LONGEST = 64 << 20  # bytes of a line that is read as a message


_NAMING = 512  # bytes that hold any naming of a session, whose id is a file's name


_OLD_BYTES = 2 << 20


_OLD_LINES = 256


_NEIGHBOURS = 16  # lines after an unreadable one that date it together, since one clock alone may be wrong


_SESSION_ID = re.compile(rb'"session_id"\s*:\s*"([A-Za-z0-9_-]+)"')


class OtherMessagesError(OSError):
    """The file is not the one that was marked, or has shrunk below the mark."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a file has been read: its identity, and the offset just behind its last whole line."""

    identity: Identity
    offset: int


@dataclass(frozen=True, slots=True)
class Turns:
    """The newest turn found of each session, in nanoseconds since the epoch.

    `unreadable_lines` counts lines that are no message; a torn last line is none of them.
    """

    newest: dict[str, int]
    unreadable_lines: int
    mark: Mark


def read(descriptor: int, sessions: Collection[str], cutoff: int, since: Mark | None = None) -> Turns:
    """The newest turn of each of the sessions in an open `messages.jsonl`.

    Reads backwards, and stops when every session has a turn at or after the
    cutoff or when 256 lines in a row and 2 MiB of them are older; a session whose last turn
    lies further back is not in the answer. With `since`, reads what was appended after that mark.

    Raises:
        OSError: reading fails.
        OtherMessagesError: there is no going on from the mark.
    """
    status = os.fstat(descriptor)
    start = since.offset if since else 0
    if since and (since.identity != identity_of(status) or status.st_size < start):
        raise OtherMessagesError
    reading = _Reading(frozenset(sessions), cutoff, following=status.st_mtime_ns)
    lines = _lines_backwards(descriptor, start, status.st_size)
    behind, tail = next(lines)
    reading.take(tail, torn=True)
    for _, line in lines:
        if reading.settled():
            break
        reading.take(line)
    return Turns(reading.newest, reading.unreadable, Mark(identity_of(status), behind))


def _lines_backwards(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines between two offsets with their own offsets, last first; the very first one is what stands behind the last newline."""
    pieces: list[bytes] = []  # of the line whose beginning is not reached yet, its end first
    held = 0
    position = end
    while position > start:
        size = min(_BLOCK, position - start)
        position -= size
        first, *rest = _pread(descriptor, size, position).split(b"\n")
        if rest:
            pieces.append(rest.pop())
            begin = position + size - len(pieces[-1])
            yield begin, b"".join(reversed(pieces))
            for line in reversed(rest):
                begin -= len(line) + 1
                yield begin, line
            pieces, held = [], 0
        pieces.append(first)
        held += len(first)
        if held > _LONGEST:
            pieces = [_abridged(b"".join(reversed(pieces)))]
            held = len(pieces[0])
    yield start, b"".join(reversed(pieces))


def _abridged(line: bytes) -> bytes:
    """The beginning of what is no message, and the sessions that all of it names."""
    return b"\0".join((line[:_NAMING], *(b'"session_id":"%s"' % name for name in set(_SESSION_ID.findall(line)))))


def _pread(descriptor: int, size: int, position: int) -> bytes:
    """Exactly `size` bytes; a file that shrinks meanwhile is an error, because Arawn only appends."""
    chunk = os.pread(descriptor, size, position)
    while len(chunk) < size:
        more = os.pread(descriptor, size - len(chunk), position + len(chunk))
        if not more:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        chunk += more
    return chunk


class _Reading:
    """The newest turns found so far, on the way backwards through a file."""

    def __init__(self, sessions: frozenset[str], cutoff: int, following: int) -> None:
        self._sessions = sessions
        self._cutoff = cutoff
        self._following = deque([following], _NEIGHBOURS)  # times of the lines after the next one
        self._waiting = len(sessions)
        self._old_bytes = 0
        self._old_lines = 0
        self.newest: dict[str, int] = {}
        self._read_any = False
        self.unreadable = 0

    def settled(self) -> bool:
        """Whether reading on could not change what is decided."""
        return not self._waiting or (self._old_bytes >= _OLD_BYTES and self._old_lines >= _OLD_LINES)

    def take(self, line: bytes, *, torn: bool = False) -> None:
        if not line.strip():
            return
        message = _parse(line)
        if message is None:
            self.unreadable += not torn
            for name in _SESSION_ID.findall(line):
                self._found(name.decode("ascii"), max(self._following))
            return
        session, timestamp = message
        if not self._read_any:
            self._following.clear()
            self._read_any = True
        self._following.append(timestamp)
        old = timestamp < self._cutoff
        self._old_bytes = self._old_bytes + len(line) if old else 0
        self._old_lines = self._old_lines + 1 if old else 0
        if session is not None:
            self._found(session, timestamp)

    def _found(self, session: str, timestamp: int) -> None:
        if session not in self._sessions:
            return
        known = self.newest.get(session)
        if timestamp >= self._cutoff and (known is None or known < self._cutoff):
            self._waiting -= 1
        if known is None or timestamp > known:
            self.newest[session] = timestamp


def _parse(line: bytes) -> tuple[str | None, int] | None:
    """Session id (None for a message of the workstream) and time of a message line, or None if it is no message."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    session, timestamp = message.get("session_id"), message.get("timestamp")
    if not (session is None or isinstance(session, str)) or not isinstance(timestamp, str):
        return None
    try:
        return session, timestamps.parse(timestamp)
    except ValueError:
        return None
