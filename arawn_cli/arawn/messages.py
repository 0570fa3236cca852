"""Find the last turn of each session in a `messages.jsonl`, while a server may append to it.

The file is read backwards from its end. Arawn appends in the order of time, but a clock can step.
So reading does not stop at one old line, but after a long stretch of old lines.

A line that cannot be parsed (torn by a crash, overwritten, without a time) counts as a turn of the
session that it names. That turn is not later than the lines after it, or than the mtime of the file
if it is the last line, so it gets that time. A torn last line that names no session is a turn that
was not completed. A line that is longer than any message, such as the hole that a crash can leave,
is treated like a torn one and never held in memory as a whole.
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
_LONGEST = 64 << 20  # bytes; a longer line is not a message
_NAMING = 512  # bytes that are enough for `"session_id":"..."`, since an id is a file's name
_OLD_BYTES = 2 << 20
_OLD_LINES = 256
_NEIGHBOURS = 16  # the newest of so many following lines dates an unreadable one, since one clock may be wrong
_SESSION_ID = re.compile(rb'"session_id"\s*:\s*"([A-Za-z0-9_-]+)"')


class OtherMessagesError(OSError):
    """The file is not the one of the position, or is shorter."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far a file has been read: its identity, and the offset after its last complete line."""

    identity: Identity
    offset: int


@dataclass(frozen=True, slots=True)
class Turns:
    """The newest turn of each session, in nanoseconds since the epoch.

    `unreadable_lines` is the number of lines that are not messages, without a torn last line.

    `any_message` is whether one of the lines that were read is a message.
    """

    newest: dict[str, int]
    unreadable_lines: int
    position: LogPosition
    any_message: bool


def read(descriptor: int, sessions: Collection[str], cutoff: int, since: LogPosition | None = None) -> Turns:
    """Return the newest turn of each of the sessions in an open `messages.jsonl`.

    Reading stops when every session has a turn at or after the cutoff, or when at least 256 lines
    in a row, of 2 MiB together, are older. A session whose last turn is further back is missing in
    the result. With `since`, only what was appended after that position is read.

    Raises:
        OSError: reading fails.
        OtherMessagesError: the position does not belong to this file.

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
        if reading.is_complete():
            break
        reading.take(line)
    return Turns(reading.newest, reading.unreadable, LogPosition(identity_of(status), behind), reading.any_message)


def _lines_backwards(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines between two offsets with their offsets, last first.

    The first one is the text after the last newline.
    """
    pieces: list[bytes] = []  # of the line whose beginning is not reached yet, last piece first
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
    """Return the beginning of a line that is too long, and each session that it names."""
    return b"\0".join((line[:_NAMING], *(b'"session_id":"%s"' % name for name in set(_SESSION_ID.findall(line)))))


def _pread(descriptor: int, size: int, position: int) -> bytes:
    """Read exactly `size` bytes.

    A file that shrinks meanwhile is an error, because Arawn only appends.
    """
    chunk = os.pread(descriptor, size, position)
    while len(chunk) < size:
        more = os.pread(descriptor, size - len(chunk), position + len(chunk))
        if not more:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        chunk += more
    return chunk


class _Reading:
    """The newest turns found so far while a file is read backwards."""

    def __init__(self, sessions: frozenset[str], cutoff: int, following: int) -> None:
        self._sessions = sessions
        self._cutoff = cutoff
        self._following = deque([following], _NEIGHBOURS)  # times of the lines after the next one
        self._waiting = len(sessions)
        self._old_bytes = 0
        self._old_lines = 0
        self.newest: dict[str, int] = {}
        self.any_message = False
        self.unreadable = 0

    def is_complete(self) -> bool:
        """Return whether reading further could not change a decision."""
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
        if not self.any_message:
            self._following.clear()
            self.any_message = True
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
    """Return the session id, or None, and the time of a line; None if it is not a message."""
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
