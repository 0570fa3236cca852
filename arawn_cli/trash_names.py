"""How a removed session is named, where it waits to be taken apart.

A session leaves `sessions/` by one rename to `held.<session-id>.<time>.<nonce>`, so
that the same system call that removes it also records when and what it was. Once a last look
has shown that nobody used it up to that moment, the `held.` goes. A run that was
killed in between leaves a held session, which the next run puts back and judges anew.
Before the first file in it goes, `gone.` is put in front: what is there is no whole session any more.
Names that do not have this form are not ours and are left alone.
"""

from __future__ import annotations

import calendar
import os
import re
import time
from dataclasses import dataclass

from arawn_cli.instants import SECOND
from arawn_cli.layout import TRASH

NAME_MAX = 255

# `+` marks an id that was cut to make room for the rest of the name; no id has it.
_NAME = re.compile(r"(?:\.trash\.)?(held\.|gone\.)?([A-Za-z0-9_][A-Za-z0-9_-]*\+?)\.(\d{8}T\d{6}Z)\.([0-9a-f]{8})", re.ASCII)
_HELD = "held."
_GONE = "gone."
_TIME = "%Y%m%dT%H%M%SZ"
IN_SESSIONS = f"{TRASH}."
"""Begins the name of a removed session that had to stay in `sessions/`, on a disk too full for a trash directory."""


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """A removed session that waits in a trash directory: whole, or `gone` once its taking apart has begun.

    `directory` are the names that lead from `workstreams/` to the directory that holds it.
    """

    directory: tuple[str, ...]
    name: str
    session: str
    removed_at: int
    held: bool
    gone: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names that lead from `workstreams/` to the entry."""
        return (*self.directory, self.name)


def name_for(session: str, removed_at: int, *, prefix: str = "") -> str:
    """A new name, held as yet, in the trash for a session that is removed now.

    An id too long for that is cut; what has a cut name could not be put back by a later run, and is not held.
    """
    stamp = time.strftime(_TIME, time.gmtime(removed_at // SECOND))
    tail = f".{stamp}.{os.urandom(4).hex()}"
    room = NAME_MAX - len(prefix) - len(_HELD) - len(tail)
    if len(session) <= room:
        return f"{prefix}{_HELD}{session}{tail}"
    return f"{prefix}{session[: room - 1]}+{tail}"


def settled(name: str) -> str:
    """The name under which a held session waits in the trash."""
    return name.replace(_HELD, "", 1)


def gone(name: str) -> str:
    """The name of a session of the trash, held or not, that is about to be taken apart."""
    prefix = IN_SESSIONS if name.startswith(IN_SESSIONS) else ""
    rest = name.removeprefix(prefix).removeprefix(_HELD).removeprefix(_GONE)
    return f"{prefix}{_GONE}{rest}"


def parse(directory: tuple[str, ...], name: str) -> TrashEntry | None:
    """The trash entry that a name tells of, or None when the name is not ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        removed_at = calendar.timegm(time.strptime(match[3], _TIME)) * SECOND
    except ValueError:
        return None
    return TrashEntry(directory, name, match[2], removed_at, held=match[1] == _HELD, gone=match[1] == _GONE)


def is_ours(name: str) -> bool:
    """Whether a name in `sessions/` is the trash, or something that waits to be taken apart there."""
    return name == TRASH or (name.startswith(IN_SESSIONS) and _NAME.fullmatch(name) is not None)
