"""The events that leave the tool: one JSON object a line, keys pinned, times RFC 3339 UTC. What all of them share.

Each kind is where its command imports it alone: `disk_events`, `cleanup_events`, `setup_events`. The string below a field is
its meaning, which the docs and the schema repeat.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from uuid import uuid4

from arawn_cli import instants
from arawn_cli.model import Failure
from arawn_cli.names import escape

PERCENT_MAX = 255


class Level(StrEnum):
    """How full a scope is. `unknown` is for a whole check: nothing is above its limit, but not all could be read."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The fields that every event has."""

    type: str
    """the kind of event"""
    id: str = field(default_factory=lambda: str(uuid4()))
    """a random UUID; an event that is sent to a relay again keeps it"""
    timestamp: str
    """when the event was made"""
    host: str
    """name of the machine, as hostname(1) prints it"""
    root: str | None
    """name of the one of `[[maintenance.roots]]` that it is about; null for the main root"""
    dry_run: bool
    """whether the run was to change nothing: what is told as done is then what it would have done"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureReport:
    """A system call that failed, and the rest went on."""

    session_id: str | None
    """the session that it concerns; null where it concerns none, or several"""
    operation: str
    """the system call, or `sqlite3` for the database"""
    path: str
    """what it was called on, relative to the root; what does not print is escaped as `\\xNN`"""
    errno: int
    """the number of the error, as in errno(3)"""
    message: str
    """the error in words"""


def to_json(event: Event) -> str:
    """The event as one line of JSON, ASCII only."""
    return json.dumps(asdict(event), separators=(",", ":"))


def report_failure(failure: Failure, session: str | None = None) -> FailureReport:
    """A failure as events write it, with the kernel's words for its number."""
    return FailureReport(
        session_id=None if session is None else escape(session),
        operation=failure.operation,
        path=failure.path,
        errno=failure.errno,
        message=failure.detail or os.strerror(failure.errno),
    )


def megabytes(size: int) -> int:
    """Whole millions of bytes, rounded down."""
    return size // 1_000_000


def percent_of(usage: int, limit: int) -> int:
    """Usage as a whole percentage of a limit, rounded down, in the one byte that Arawn's client has for it; a limit below 1 counts as 1."""
    return min(usage * 100 // max(limit, 1), PERCENT_MAX)


def rendered(instant: int | None) -> str | None:
    """An instant as the events write it, or None."""
    return None if instant is None else instants.render(instant)
