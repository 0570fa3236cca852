"""The nouns: what is found on disk, what is known of it, and what is decided about it.

Times are whole nanoseconds since the Unix epoch, sizes are bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from arawn_cli.names import escape

SCRATCH = "scratch"

Identity = tuple[int, int]
"""Device and inode number: what stays the same when a name is moved."""


def identity_of(status: os.stat_result) -> Identity:
    """Device and inode number of a file."""
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class Failure:
    """A system call that failed on one file, kept as a value so that the rest goes on.

    `path` is escaped and relative to the root; `errno` is the kernel's number; `detail`
    says more where the number does not say enough.
    """

    operation: str
    path: str
    errno: int
    detail: str = ""

    @classmethod
    def of(cls, operation: str, path: str, error: OSError) -> Failure:
        """The failure that an OSError tells; an error without a number counts as EIO, and one in words of its own keeps them."""
        number = error.errno or errno.EIO
        told = error.strerror or ""
        return cls(operation, escape(path), number, "" if told == os.strerror(number) else told)

    def __str__(self) -> str:
        return f"{self.operation} {self.path}: {self.detail or os.strerror(self.errno)}"


class FileKind(StrEnum):
    """What a directory entry is, links not followed."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory; `name` may hold surrogate escapes."""

    name: str
    kind: FileKind


@dataclass(frozen=True, slots=True)
class WorkstreamRow:
    """A row of Arawn's `workstreams` table; `sessions` is how many rows of `sessions` name it."""

    id: str
    title: str
    sessions: int = 0

    @property
    def is_scratch(self) -> bool:
        """Whether it is the workstream of sessions that have none; its directory has a fixed name."""
        return self.id == SCRATCH


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A row of Arawn's `sessions` table: times as far as they could be read.

    `unreadable` is true when a time is there and is no RFC 3339 text.
    """

    id: str
    workstream_id: str
    newest: int | None
    unreadable: bool


@dataclass(frozen=True, slots=True)
class HardLinks:
    """A file with several names, as far as its names were met: counted once, freed only when all of them go."""

    apparent: int
    allocated: int
    met: int
    links: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree uses.

    Attributes:
        apparent_bytes: sum of `st_size` of regular files, each inode once (as `du -b` counts a file).
        allocated_bytes: sum of blocks x 512 of everything in the tree, directories included.
        files: regular files, each inode once.
        directories: directories, the top one included.
        largest_file_bytes: `st_size` of the largest regular file, 0 without one.
        newest_mtime: newest mtime of anything in the tree, or None when nothing was measured.
        linked: the files with more than one name, by identity.
        failures: what could not be read; the numbers leave it out.
        other_filesystems: directories where another filesystem begins; it is not entered.
        sample_age_secs: how old the oldest part of it is, where parts are taken from an earlier check; else 0.
    """

    apparent_bytes: int = 0
    allocated_bytes: int = 0
    files: int = 0
    directories: int = 0
    largest_file_bytes: int = 0
    newest_mtime: int | None = None
    linked: Mapping[Identity, HardLinks] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    other_filesystems: tuple[str, ...] = ()
    sample_age_secs: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.failures

    @property
    def freed_bytes(self) -> int:
        """Apparent bytes that removing the tree gives back: files with a name elsewhere stay."""
        return self.apparent_bytes - sum(file.apparent for file in self.linked.values() if file.met < file.links)

    @property
    def freed_allocated_bytes(self) -> int:
        """The same in allocated bytes."""
        return self.allocated_bytes - sum(file.allocated for file in self.linked.values() if file.met < file.links)


@dataclass(frozen=True, slots=True)
class TurnEvidence:
    """When a session was used, as Arawn recorded it.

    What could not be read may have told of a later use: `shared_failures` of any session,
    `own_failures` of this one.
    """

    last_turn: int | None = None
    row: int | None = None
    shared_failures: tuple[Failure, ...] = ()
    own_failures: tuple[Failure, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.shared_failures and not self.own_failures

    @property
    def newest(self) -> int | None:
        """The later of last turn and row."""
        return latest(self.last_turn, self.row)


@dataclass(frozen=True, slots=True)
class ScratchSession:
    """An entry of `scratch/sessions/`.

    `has_mount` tells of a mount point at or below it; `usage` is None as long as it has not been measured.
    """

    name: str
    kind: FileKind
    identity: Identity
    has_mount: bool = False
    evidence: TurnEvidence = TurnEvidence()
    usage: Usage | None = None

    @property
    def last_activity(self) -> int | None:
        """The newest of all evidence, or None when there is none."""
        return latest(self.evidence.newest, self.usage.newest_mtime if self.usage else None)


class Reason(StrEnum):
    """Why a session goes or stays."""

    ACTIVE = "active"
    RECENT_FILES = "recent_files"
    PROTECTED = "protected"
    LOCKED = "locked"
    IN_USE = "in_use"
    MOUNT_INSIDE = "mount_inside"
    NOT_A_DIRECTORY = "not_a_directory"
    FOREIGN_NAME = "foreign_name"
    ACTIVITY_UNKNOWN = "activity_unknown"
    FUTURE_TIMESTAMP = "future_timestamp"
    CHANGED_SINCE_PLAN = "changed_since_plan"
    BRAKE = "brake"
    EXPIRED = "expired"
    IO_ERROR = "io_error"


NO_SESSION = frozenset({Reason.FOREIGN_NAME, Reason.NOT_A_DIRECTORY})
"""The reasons of what stands among the sessions and is none."""


class Action(StrEnum):
    """What was done with a session."""

    DELETED = "deleted"
    WOULD_DELETE = "would_delete"
    KEPT = "kept"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the plan says of one session: it goes when the reason is `expired`."""

    session: ScratchSession
    reason: Reason

    @property
    def goes(self) -> bool:
        """Whether the session is to be removed."""
        return self.reason is Reason.EXPIRED


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one session.

    `freed_bytes` is what the filesystem got back, zero for a session that waits in the trash.
    """

    session: ScratchSession
    action: Action
    reason: Reason
    freed_bytes: int = 0
    failures: tuple[Failure, ...] = ()


def latest(*instants: int | None) -> int | None:
    """The latest of the instants that are known, or None."""
    return max((instant for instant in instants if instant is not None), default=None)
