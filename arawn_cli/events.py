"""Define the base of all events, and values of their keys that many modules use.

An event is one JSON object on one line. Times are RFC 3339 in UTC. Tests pin the keys. The docs and
the JSON Schema take the descriptions of the keys from here, `check_events.py`, `cleanup_events.py`
and `command_events.py`: each command imports only the events that it writes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, dataclass_transform
from uuid import uuid4

from arawn_cli import timestamps
from arawn_cli.errors import Failure
from arawn_cli.names import encodable, escape


class Level(StrEnum):
    """How full a scope is.

    `unknown` is for a whole check: no scope exceeds its limit, but not everything could be read.
    """

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class Unit(StrEnum):
    """What the usage of a scope counts."""

    BYTES = "bytes"
    INODES = "inodes"


class Reason(StrEnum):
    """Why a session was removed or kept."""

    ACTIVE = "active"
    RECENT_FILES = "recent_files"
    KEPT_LAST = "kept_last"
    PROTECTED = "protected"
    ATTACHED = "attached"
    LOCKED = "locked"
    IN_USE = "in_use"
    MOUNT_INSIDE = "mount_inside"
    NOT_A_DIRECTORY = "not_a_directory"
    FOREIGN_NAME = "foreign_name"
    ACTIVITY_UNKNOWN = "activity_unknown"
    FUTURE_TIMESTAMP = "future_timestamp"
    NOT_PERMITTED = "not_permitted"
    CANNOT_MOVE = "cannot_move"
    CHANGED_SINCE_PLAN = "changed_since_plan"
    REMOVAL_LIMIT = "removal_limit"
    EXPIRED = "expired"
    OVER_BUDGET = "over_budget"
    IO_ERROR = "io_error"


IN_RECENT_USE = frozenset({Reason.ACTIVE, Reason.RECENT_FILES})
"""The reasons of sessions that are not old enough."""

REMOVED_FOR = frozenset({Reason.EXPIRED, Reason.OVER_BUDGET})
"""The reasons of sessions that are due. A removal limit can keep one that is over budget."""

UNRESOLVED = frozenset({Reason.ACTIVITY_UNKNOWN, Reason.NOT_PERMITTED, Reason.CANNOT_MOVE, Reason.IO_ERROR})
"""The reasons of sessions that stay for ever if nobody does anything: the run has exit code 1."""

NO_SESSION = frozenset({Reason.FOREIGN_NAME, Reason.NOT_A_DIRECTORY})
"""The reasons of entries beside the sessions that are not sessions."""


class JobName(StrEnum):
    """A job that a scheduler runs, by the name of its command."""

    SCRATCH_CLEANUP = "scratch-cleanup"
    DISK_CHECK = "disk-check"


def doc(description: str, **default: Any) -> Any:  # noqa: ANN401 - mypy checks its uses as those of field()
    """Return a field of a dataclass with a description, which pydantic copies into the schema."""
    return field(metadata={"description": description}, **default)


Class = TypeVar("Class")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(doc,))
def part(cls: type[Class]) -> type[Class]:
    """Make a dataclass of an object inside events."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(doc,))
def event(cls: type[Class]) -> type[Class]:
    """Make a dataclass of an event, which has its own id and is never compared.

    Without the methods for that, and for printing, a start is 3 ms faster.
    """
    return dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)(cls)


@event
class Event:
    """The keys of every event."""

    type: str = doc("type of the event")
    id: str = doc("a random UUID; an event that is sent to a relay again keeps its id", default_factory=lambda: str(uuid4()))
    timestamp: str = doc("time of the event")
    host: str = doc("name of the machine, as hostname(1) prints it")
    root: str | None = doc("name of the root in `[[maintenance.roots]]`; null for the main root")
    dry_run: bool = doc("whether this was a dry run, in which actions are only what would have been done")


@part
class FailureReport:
    """An operation that failed. The run continued with the rest."""

    session_id: str | None = doc("the session concerned; null for none or several")
    operation: str = doc(
        "what failed: to `open`, `list`, `read`, `rename` or `delete` a file or directory, to `measure` its size and time, to `parse` a "
        "time, to `query` Arawn's database, or to `check` whether a session may be removed"
    )
    path: str = doc("path of the file, relative to the root; bytes that do not print are escaped as `\\xNN`")
    errno: int = doc("number of the error, as in errno(3)")
    message: str = doc("the error in words")


@part
class Filesystem:
    """A filesystem, for an ordinary user: blocks reserved for root are not free."""

    mountpoint: str = doc("where it is mounted; bytes that do not print are escaped as `\\xNN`")
    total_bytes: int = doc("its size in bytes; 0 if it is not known")
    used_bytes: int = doc("bytes that are used")
    free_bytes: int = doc("bytes that an ordinary user can still use")
    total_inodes: int = doc("its inodes; 0 if it has no limit of them, or the number is not known")
    used_inodes: int = doc("inodes that are used")
    free_inodes: int = doc("inodes that an ordinary user can still use")


def to_json(event: Event) -> str:
    """Return the event as one line of JSON, in ASCII."""
    values = {name: getattr(event, name) for name in event.__dataclass_fields__}
    texts = {name: encodable(value) for name, value in values.items() if isinstance(value, str)}
    return json.dumps({**values, **texts}, default=asdict, separators=(",", ":"))


def report_failure(failure: Failure, session: str | None = None) -> FailureReport:
    """Return a failure as it appears in events."""
    return FailureReport(
        session_id=None if session is None else escape(session),
        operation=failure.operation,
        path=failure.path,
        errno=failure.errno,
        message=failure.detail or os.strerror(failure.errno),
    )


def rendered(instant: int | None) -> str | None:
    """Return a time in nanoseconds as RFC 3339 text, or None for None."""
    return None if instant is None else timestamps.render(instant)
