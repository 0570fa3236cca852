"""The usage of directory trees: sizes, counts, the newest entry, and what prevents a removal."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from arawn_cli.errors import FAILURES_LISTED, Failure, Operation
from arawn_cli.fs.openat import Identity, identity_of
from arawn_cli.names import escape

_BLOCK = 512  # unit of st_blocks on every filesystem, see stat(2)
CUT_BYTES = 511
"""The size of a path in a result that was cut; a shorter one is whole."""

FINDINGS_MAX = 16
"""Findings of each kind that are listed for a tree."""


@dataclass(frozen=True, slots=True)
class HardLinks:
    """A file with several names, `found` of them in the measured trees.

    Its size counts once. Deleting the trees frees it only if all its names are in them.
    """

    apparent: int
    allocated: int
    found: int
    names: int


class ObstacleKind(StrEnum):
    """Why this account cannot remove an entry."""

    FOREIGN = "foreign"
    FLAGGED = "flagged"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """An entry that this account cannot remove, whatever it does with those beside it.

    Attributes:
        kind: FOREIGN for a directory of another account that is not empty and that it cannot
            change, or for an entry of a sticky one; FLAGGED for an immutable or append-only entry.
        path: the first 511 bytes of its path below the tree; empty for the tree itself.
        owner: user id of the entry.
    """

    kind: ObstacleKind
    path: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of trees, with at most 16 failures, obstacles and paths of each kind a tree.

    Attributes:
        apparent_bytes: sum of `st_size` of regular files, each inode once (as `du -b` does).
        allocated_bytes: allocated blocks of everything in the tree, directories included.
        files: regular files, each inode once.
        directories: directories, the top one included.
        largest_file_bytes: `st_size` of the largest regular file, 0 without one.
        newest_mtime: newest mtime of anything in the tree, None if nothing was measured.
        linked: files with more than one name.
        failures: everything that could not be read and is missing in the numbers.
        other_filesystems: directories where another filesystem is mounted; it is not counted.
        sample_age_secs: age of the oldest part if parts were measured by an earlier check, else 0.
        newest_path: first 511 bytes of the path below its tree of the entry with the newest mtime;
            of several, the first in the order of bytes. Empty for the tree itself, and if an
            earlier check measured it.
        obstacles: what keeps this account from removing the tree. That the directory which holds
            the tree can be changed is not checked.
        foreign_links: paths, as in obstacles, of regular files of other accounts with several
            names.
        unlisted_failures: number of failures beyond those that are listed.
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
    newest_path: bytes = b""
    obstacles: tuple[Obstacle, ...] = ()
    foreign_links: tuple[bytes, ...] = ()
    unlisted_failures: int = 0

    @property
    def newest_shown(self) -> str:
        """The newest entry for people: `.` for the tree itself, `…` at the end of a cut one."""
        return shown_path(self.newest_path) or "."

    @property
    def complete(self) -> bool:
        """Whether everything could be read."""
        return not self.failures

    @property
    def has_vanished(self) -> bool:
        """Whether nothing was there any more."""
        return self.newest_mtime is None and not self.failures and not self.obstacles

    @property
    def freed_bytes(self) -> int:
        """Apparent bytes that deleting the trees frees: files with a name elsewhere stay."""
        return self.apparent_bytes - sum(file.apparent for file in self.linked.values() if file.found < file.names)

    @property
    def freed_allocated_bytes(self) -> int:
        """Allocated bytes that deleting the trees frees."""
        return self.allocated_bytes - sum(file.allocated for file in self.linked.values() if file.found < file.names)

    @property
    def failure_count(self) -> int:
        """Number of failures, listed or not."""
        return len(self.failures) + self.unlisted_failures

    def with_failures(self, most: int) -> Usage:
        """Return the usage with at most `most` failures listed, and the others counted."""
        if len(self.failures) <= most:
            return self
        return replace(self, failures=self.failures[:most], unlisted_failures=self.failure_count - most)

    def without_file(self, status: os.stat_result) -> Usage:
        """Return the usage without one regular file, which still counts for the newest mtime."""
        identity = identity_of(status)
        links = self.linked.get(identity)
        apparent, allocated = (links.apparent, links.allocated) if links else (status.st_size, status.st_blocks * _BLOCK)
        return replace(
            self,
            apparent_bytes=max(self.apparent_bytes - apparent, 0),
            allocated_bytes=max(self.allocated_bytes - allocated, 0),
            files=max(self.files - 1, 0),
            linked={other: file for other, file in self.linked.items() if other != identity},
        )


def shown_path(path: bytes) -> str:
    """Return a path below a tree for people; one that was cut ends with `…`."""
    return escape(os.fsdecode(path)) + ("…" if len(path) == CUT_BYTES else "")


@dataclass(slots=True)
class UsageAccumulator:
    """A growing sum; the fields are those of `Usage`."""

    apparent: int = 0
    allocated: int = 0
    files: int = 0
    directories: int = 0
    largest: int = 0
    newest: int | None = None
    linked: dict[Identity, HardLinks] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    other_filesystems: list[str] = field(default_factory=list)
    sample_age_secs: int = 0
    newest_path: bytes = b""
    obstacles: list[Obstacle] = field(default_factory=list)
    foreign_links: list[bytes] = field(default_factory=list)
    unlisted_failures: int = 0

    def add_entry(self, status: os.stat_result, path: Callable[[], bytes] = bytes) -> None:
        """Add one file or directory, and its path below the tree if it is the newest."""
        if self.newest is None or status.st_mtime_ns > self.newest:
            self.newest, self.newest_path = status.st_mtime_ns, path()
        elif status.st_mtime_ns == self.newest:
            self.newest_path = min(self.newest_path, path())
        allocated = status.st_blocks * _BLOCK
        if stat.S_ISDIR(status.st_mode):
            self.directories += 1
        elif stat.S_ISREG(status.st_mode):
            self.largest = max(self.largest, status.st_size)
            if status.st_nlink > 1:
                self.add_links(identity_of(status), HardLinks(status.st_size, allocated, 1, status.st_nlink))
                return
            self.files += 1
            self.apparent += status.st_size
        self.allocated += allocated

    def add_links(self, identity: Identity, links: HardLinks) -> None:
        """Add one or more names of a file; its size counts with the first."""
        known = self.linked.get(identity)
        if known is not None:
            self.linked[identity] = replace(known, found=known.found + links.found)
            return
        self.linked[identity] = links
        self.files += 1
        self.apparent += links.apparent
        self.allocated += links.allocated

    def add_failure(self, operation: Operation, path: str, error: OSError) -> None:
        """Add a failure at an escaped path, unless the entry was removed in the meantime."""
        if isinstance(error, FileNotFoundError):
            return
        if sum(failure.operation == operation for failure in self.failures) >= FINDINGS_MAX:
            self.unlisted_failures += 1
        else:
            self.failures.append(replace(Failure.of(operation, "", error), path=path))

    def add_obstacle(self, kind: ObstacleKind, path: bytes, owner: int) -> None:
        """Add an entry that cannot be removed."""
        if sum(obstacle.kind is kind for obstacle in self.obstacles) < FINDINGS_MAX:
            self.obstacles.append(Obstacle(kind, path, owner))

    def add_usage(self, usage: Usage) -> None:
        """Add a measured tree."""
        self.apparent += usage.apparent_bytes - sum(file.apparent for file in usage.linked.values())
        self.allocated += usage.allocated_bytes - sum(file.allocated for file in usage.linked.values())
        self.files += usage.files - len(usage.linked)
        for identity, links in usage.linked.items():
            self.add_links(identity, links)
        self.directories += usage.directories
        self.largest = max(self.largest, usage.largest_file_bytes)
        if usage.newest_mtime is not None and (self.newest is None or usage.newest_mtime > self.newest):
            self.newest, self.newest_path = usage.newest_mtime, usage.newest_path
        self.failures += usage.failures
        self.other_filesystems += usage.other_filesystems
        self.obstacles += usage.obstacles
        self.foreign_links += usage.foreign_links
        self.unlisted_failures += usage.unlisted_failures
        self.sample_age_secs = max(self.sample_age_secs, usage.sample_age_secs)

    def result(self) -> Usage:
        """Return the sum, with failures and other filesystems in the order of their paths."""
        return Usage(
            self.apparent,
            self.allocated,
            self.files,
            self.directories,
            self.largest,
            self.newest,
            self.linked,
            tuple(sorted(self.failures, key=lambda failure: (failure.path, failure.operation))),
            tuple(sorted(self.other_filesystems)),
            self.sample_age_secs,
            self.newest_path,
            tuple(sorted(self.obstacles, key=lambda obstacle: (obstacle.path, obstacle.kind))),
            tuple(sorted(self.foreign_links)),
            self.unlisted_failures,
        )


def combined(usages: Iterable[Usage]) -> Usage:
    """Return the usage of several trees; a file with names in more than one counts once.

    At most 20 failures are listed.
    """
    accumulator = UsageAccumulator()
    for usage in usages:
        accumulator.add_usage(usage)
    return accumulator.result().with_failures(FAILURES_LISTED)
