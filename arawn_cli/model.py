"""The nouns: what is found on disk and in Arawn's database.

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


def latest(*instants: int | None) -> int | None:
    """The latest of the instants that are known, or None."""
    return max((instant for instant in instants if instant is not None), default=None)
