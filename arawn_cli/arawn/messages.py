"""Read the newest turn of each session in a `messages.jsonl`, while a server may append to it.

The file is read completely and forwards, because a merge or a restored copy can leave its lines in
any order. A line that is not a message is damage, which counts as a turn: of the sessions that the
line names, and of every session if a part of it, such as a torn message before a whole one, names
none. Its time is the newest of all messages before it and the next one after it. If no message
follows, the mtime of the file takes the place of the next one.

Memory is bounded: a line that is longer than any message is damage, and only the ids in it are
kept. Holes are not read.
"""

from __future__ import annotations

import codecs
import errno
import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from arawn_cli import timestamps
from arawn_cli.errors import StoppedError, never_stopping
from arawn_cli.fs.openat import Identity, identity_of

EVERY_SESSION = None
"""The key of damage that names no session."""

_BLOCK = 1 << 18
_LONGEST = 16 << 20  # bytes; a longer line is not a message
_LOST = b"\0" * 50  # a stretch of NUL bytes in which a whole message can be lost, since none is shorter
_NAMING = 512  # bytes that are enough for `"session_id":"..."`, since an id is a file's name
_NAME = re.compile(rb'"session_id"(?:\s*:\s*(?:"([A-Za-z0-9_-]+)"|(null)))?')
_SIGNS = re.compile(rb'(\{\s*+(?="))|"session_id"')  # the beginning of an object, and the key that names its session
_ESCAPED = re.compile(rb"\\u00[2-7]")  # a letter that no program needs to escape: it can hide a key or an id


class OtherMessagesError(OSError):
    """The file is not the one that was read before, or is shorter."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "it was replaced or shortened since it was read")


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far a file has been read: its identity, and the offset after its last complete line."""

    identity: Identity
    offset: int


@dataclass(frozen=True, slots=True)
class Damage:
    """A line that is not a message, the first of several in a row, or a file beside the messages.

    Attributes:
        at: the time for which it counts, in nanoseconds since the epoch.
        path: the file, relative to the root.
        offset: where the line begins, in bytes; None if the file is not read.
        dated_by: where the message begins that has this time; None if it is that of the file.
    """

    at: int
    path: str
    offset: int | None
    dated_by: int | None = None

    def __str__(self) -> str:
        if self.offset is None:
            return f"{self.path} is not read, but may hold messages"
        return f"{self.path}: the line at byte {self.offset} is not a message"

    @property
    def dated(self) -> str:
        """For which time it counts, and why: the message there may be wrong itself."""
        source = "" if self.dated_by is None else f", the time of the message at byte {self.dated_by}"
        return f"counts as a turn of {timestamps.minute(self.at)}{source}"


@dataclass(slots=True)
class Turns:
    """The turns in the lines that were read.

    Attributes:
        path: the file, relative to the root.
        sessions: the ids that are looked for; others are not kept.
        newest: the newest message of each session, in nanoseconds since the epoch.
        damage: the newest damage that counts for a session, or for `EVERY_SESSION`.
        damaged_lines: number of lines that are not messages.
        latest: the newest of all messages, None before the first one.
        latest_offset: where it begins.
    """

    path: str
    sessions: frozenset[str]
    newest: dict[str, int] = field(default_factory=dict)
    damage: dict[str | None, Damage] = field(default_factory=dict)
    damaged_lines: int = 0
    latest: int | None = None
    latest_offset: int | None = None
    _undated: dict[str | None, int] = field(default_factory=dict)  # offsets of damage since the last message

    def copy(self) -> Turns:
        """Return a copy that can take other lines."""
        return replace(self, newest=dict(self.newest), damage=dict(self.damage), _undated=dict(self._undated))

    def take(self, line: bytes, offset: int) -> None:
        """Take a line without its newline."""
        line = line.removeprefix(codecs.BOM_UTF8).strip(b" \t\r")  # editors add the mark
        if not line:
            return
        message = _parse(line)
        if isinstance(message, frozenset):
            self.damaged_lines += 1
            for name in message:
                if name is EVERY_SESSION or name in self.sessions:
                    self._undated.setdefault(name, offset)
            return
        session, at = message
        if self.latest is None or at > self.latest:
            self.latest, self.latest_offset = at, offset
        if self._undated:
            self.date_damage(self.latest)
        if session in self.sessions and at > self.newest.get(session, at - 1):
            self.newest[session] = at

    def date_damage(self, at: int) -> None:
        """Date the damage since the last message: this time, or that of the newest message."""
        source = None
        if self.latest is not None and self.latest >= at:
            at, source = self.latest, self.latest_offset
        for name, offset in self._undated.items():
            known = self.damage.get(name)
            if known is None or at > known.at:
                self.damage[name] = Damage(at, self.path, offset, source)
        self._undated.clear()


class MessageLog:
    """One `messages.jsonl`, and the turns read from it so far.

    Attributes:
        turns: the turns, with those of a last line that may be incomplete.
    """

    def __init__(self, path: str, sessions: Collection[str], since: LogPosition | None = None) -> None:
        """Read nothing yet. `path` is for people; with `since`, only the part after it is read."""
        self.turns = Turns(path, frozenset(sessions))
        self._position = since
        self._complete_lines = self.turns
        self._size = since.offset if since else 0

    def read(self, descriptor: int, stopping: Callable[[], bool] = never_stopping) -> LogPosition:
        """Read the appended part (at first the whole file), and return the new position.

        Raises:
            OSError: reading fails.
            OtherMessagesError: the file is another one, or is shorter than it was.
            StoppedError: `stopping` returned that a signal asked the run to end.
        """
        status = os.fstat(descriptor)
        start = self._position.offset if self._position else 0
        if (self._position and self._position.identity != identity_of(status)) or status.st_size < self._size:
            raise OtherMessagesError
        if start and _pread(descriptor, 1, start - 1) != b"\n":
            raise OtherMessagesError
        turns = self._complete_lines.copy()
        begin, head = start, b""  # of the line that is not complete yet
        for position, block in _blocks(descriptor, start, status.st_size):
            if stopping():
                raise StoppedError
            *ends, rest = block.split(b"\n")
            for end in ends:
                turns.take(head + end if head else end, begin)
                position += len(end) + 1
                begin, head = position, b""
            head += rest
            if len(head) > _LONGEST:
                head = _abridged(head, turns.sessions)
        self._complete_lines = turns
        self._position = LogPosition(identity_of(status), begin)
        self._size = status.st_size
        self.turns = turns.copy()
        self.turns.take(head, begin)
        self.turns.date_damage(status.st_mtime_ns)
        return self._position


def _blocks(descriptor: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the data between two offsets in blocks with their offsets.

    A hole becomes one short block of NUL bytes. See SEEK_DATA in lseek(2).
    """
    position = start
    while position < end:
        data = min(_seek(descriptor, position, os.SEEK_DATA, end), end)
        if data > position:
            yield position, _LOST
        hole = min(_seek(descriptor, data, os.SEEK_HOLE, end), end)
        for position in range(data, hole, _BLOCK):
            yield position, _pread(descriptor, min(_BLOCK, hole - position), position)
        position = hole


def _seek(descriptor: int, position: int, whence: int, end: int) -> int:
    """Return the offset where data or a hole begins, or `end` if none follows."""
    try:
        return os.lseek(descriptor, position, whence) if position < end else end
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        raise


def _pread(descriptor: int, size: int, position: int) -> bytes:
    """Read exactly `size` bytes.

    Raises:
        OtherMessagesError: the file became shorter. Arawn only appends.
    """
    chunk = os.pread(descriptor, size, position)
    while len(chunk) < size:
        more = os.pread(descriptor, size - len(chunk), position + len(chunk))
        if not more:
            raise OtherMessagesError
        chunk += more
    return chunk


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# An object becomes a tuple of pairs, so that duplicate keys are seen; an array becomes a list.
_raw_decode: Callable[[str], tuple[object, int]] = json.JSONDecoder(object_pairs_hook=tuple, parse_constant=_refuse_constant).raw_decode


def _parse(line: bytes) -> tuple[str | None, int] | frozenset[str | None]:
    """Return session id (or None) and time of a message; of any other line the ids in it."""
    try:
        text = line.decode()
        pairs, end = _raw_decode(text)
    except (ValueError, RecursionError):
        return _named(line)
    if end != len(text):
        return _named(line)
    if not isinstance(pairs, tuple):
        return frozenset({EVERY_SESSION})
    message = dict(pairs)
    session, timestamp = message.get("session_id", 0), message.get("timestamp")
    if len(message) == len(pairs) and (session is None or isinstance(session, str)) and isinstance(timestamp, str):
        try:
            return session, timestamps.parse(timestamp)
        except ValueError:
            pass
    return frozenset(value for key, value in pairs if key == "session_id" and isinstance(value, str)) or frozenset({EVERY_SESSION})


def _named(text: bytes) -> frozenset[str | None]:
    """Return the sessions that damaged text names; every session if an id may be hidden."""
    names: set[str | None] = set()
    for match in _NAME.finditer(text):
        if match.lastindex is None:
            return frozenset({EVERY_SESSION})
        if match[1]:
            names.add(match[1].decode("ascii"))
    if not names or _LOST in text or _ESCAPED.search(text) or _has_nameless_part(text, len(text)):
        names.add(EVERY_SESSION)
    return frozenset(names)


def _has_nameless_part(line: bytes, end: int) -> bool:
    """Whether an object in a line, or the text before the first one, names no session.

    After a full disk or a crash, a message follows the beginning of another one on the same line.
    """
    is_named = False
    for sign in _SIGNS.finditer(line, 0, end):
        if sign[1] and sign.start() and not is_named:
            return True
        is_named = not sign[1]
    return not is_named


def _abridged(line: bytes, sessions: frozenset[str]) -> bytes:
    """Return a shorter line that names the same of these sessions and is not a message either.

    Its last bytes stay, because an id can continue after them.
    """
    kept = len(line) - _NAMING
    begin = line.rfind(b"{", max(kept - _NAMING, 0), kept)
    kept = begin if begin > 0 else kept  # not between the beginning of a message and its id
    pieces = {sign for sign in (_LOST,) if sign in line}
    if _has_nameless_part(line, kept):
        pieces.add(b'"session_id"')
    if _ESCAPED.search(line):
        pieces.add(b"\\u0020")
    for match in _NAME.finditer(line):
        if match.start() >= kept:
            break
        if match.lastindex is None:
            pieces.add(b'"session_id"')
        elif match[1]:
            name = match[1] if match[1].decode("ascii") in sessions else b"-"  # no session has this name
            pieces.add(b'"session_id":"%s"' % name)
    return b"\0".join((b"", *pieces, line[kept:]))
