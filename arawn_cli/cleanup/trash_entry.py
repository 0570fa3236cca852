"""Name the entries of the trash. The name of an entry holds its session, its time and its state."""

from __future__ import annotations

import os
import re
import time
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from arawn_cli.arawn.layout import TRASH
from arawn_cli.timestamps import DAY, SECOND, parse

SESSIONS_PREFIX = f"{TRASH}."
"""Begins the name of an entry in `sessions/`, if a full disk has no space for a trash directory."""

_NAME_MAX = 255  # bytes (NAME_MAX of limits.h)
_EXCHANGED_MAX = 3 * 17  # bytes that the record of an exchange adds to a name
_TIME = "%Y%m%dT%H%M%SZ"
# Compiled at the first use: most runs find no trash.
_RFC3339 = r"(?a)(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z"
# `+` ends an id that was cut to make room for the rest of the name; no id contains it. An id has no
# dot, so the parts between the dots are never ambiguous, also for a session with the id `held`.
_NAME = (
    r"(?a)(?P<prefix>\.trash\.)?(?P<state>held\.|gone\.)?"
    r"(?P<rest>(?P<session>[A-Za-z0-9_][A-Za-z0-9_-]*\+?)\.(?P<time>\d{8}T\d{6}Z)\.[0-9a-f]{8})"
    r"(?P<exchanged>-[0-9a-f]{1,16}-[0-9a-f]{1,16}-[0-9a-f]{1,16})?"
)


class TrashState(StrEnum):
    """The state of an entry. The value begins its name.

        sessions/ID --rename--> PENDING --checks passed--> CONFIRMED --purge--> DELETING --> deleted
             ^                     |                           |
             +-- used meanwhile ---+                           |
             +-- trash restore --------------------------------+

    After each step a killed run can be continued: the next cleanup moves a PENDING entry back and
    decides anew, and finishes a DELETING one. With `trash_days = 0` a PENDING entry is DELETING at
    once.

    If the session's directory was exchanged for one that its chat needs (see `chats`), PENDING is
    also its state before the exchange, and while it is put back.
    """

    PENDING = "held."
    CONFIRMED = ""
    DELETING = "gone."


class Exchanged(NamedTuple):
    """The record in the name of an entry whose directory was exchanged for another.

    Attributes:
        directory: inode of the directory that was put in the session's place.
        messages: inode of the `messages.jsonl` that both had then, or 0.
        size: its size in bytes.
    """

    directory: int
    messages: int
    size: int


class TrashEntry(NamedTuple):
    """An entry of the trash.

    Attributes:
        directory: the path from `workstreams/` to the directory that contains it.
        session: the id that it had; a cut one ends with `+`.
        removed_at: nanoseconds since the epoch, in whole seconds.
        exchanged: None if nothing was put in its place.
    """

    directory: tuple[str, ...]
    name: str
    session: str
    removed_at: int
    state: TrashState
    exchanged: Exchanged | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The path from `workstreams/` to the entry."""
        return (*self.directory, self.name)

    @property
    def removal(self) -> tuple[str, int]:
        """The session and the time of its removal, by which the state file knows it."""
        return self.session, self.removed_at

    def purged_from(self, trash_days: int) -> int:
        """Return the time from which on a cleanup purges it, in nanoseconds."""
        return self.removed_at + trash_days * DAY

    def is_due(self, now: int, trash_days: int) -> bool:
        """Whether a cleanup at `now`, in nanoseconds, purges it.

        It does if the entry has been in the trash for `trash_days`, or if its deletion was begun.
        """
        if self.state is TrashState.CONFIRMED:
            return not trash_days or self.purged_from(trash_days) <= now
        return self.state is TrashState.DELETING


def pending_name(session: str, removed_at: int, *, prefix: str = "", exchanged: bool = False) -> str:
    """Return a new name for a session that is removed now, with room for the record of an exchange.

    An id that is too long is cut. A later run could not move such an entry back, so it is CONFIRMED
    at once.
    """
    tail = f".{_stamp(removed_at // SECOND)}.{os.urandom(4).hex()}"
    room = _NAME_MAX - len(prefix) - len(TrashState.PENDING) - len(tail) - (_EXCHANGED_MAX if exchanged else 0)
    if len(session) <= room:
        return f"{prefix}{TrashState.PENDING}{session}{tail}"
    return f"{prefix}{session[: room - 1]}+{tail}"


@lru_cache(maxsize=8)  # one run removes many sessions in a second
def _stamp(seconds: int) -> str:
    return time.strftime(_TIME, time.gmtime(seconds))


def exchanged_name(name: str, exchanged: Exchanged) -> str:
    """Return the name of an entry, PENDING unless it is cut, with this record of an exchange."""
    parts = _parts(name)
    state = TrashState.CONFIRMED if parts["session"].endswith("+") else TrashState.PENDING
    return f"{parts['prefix']}{state}{parts['rest']}-{exchanged.directory:x}-{exchanged.messages:x}-{exchanged.size:x}"


def confirmed_name(name: str) -> str:
    """Return the name of an entry once it is CONFIRMED."""
    return _in_state(name, TrashState.CONFIRMED)


def deleting_name(name: str) -> str:
    """Return the name of an entry in any state once it is DELETING."""
    return _in_state(name, TrashState.DELETING)


def _in_state(name: str, state: TrashState) -> str:
    parts = _parts(name)
    return f"{parts['prefix']}{state}{parts['rest']}{parts['exchanged']}"


def _parts(name: str) -> dict[str, str]:
    match = re.fullmatch(_NAME, name)
    if match is None:
        raise ValueError(f"not the name of an entry of the trash: {name!r}")
    return match.groupdict("")


def parse_entry(directory: tuple[str, ...], name: str) -> TrashEntry | None:
    """Return the entry of this name, or None if this tool did not create it."""
    match = re.fullmatch(_NAME, name)
    if match is None:
        return None
    try:
        removed_at = parse(re.sub(_RFC3339, r"\1-\2-\3T\4:\5:\6Z", match["time"]))
    except ValueError:
        return None
    numbers = match["exchanged"]
    exchanged = Exchanged(*(int(number, 16) for number in numbers[1:].split("-"))) if numbers else None
    return TrashEntry(directory, name, match["session"], removed_at, TrashState(match["state"] or ""), exchanged)


def is_trash(name: str) -> bool:
    """Whether a name in `sessions/` is the trash directory, or an entry of the trash."""
    return name == TRASH or (name.startswith(SESSIONS_PREFIX) and parse_entry((), name) is not None)
