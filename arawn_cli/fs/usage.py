"""The usage of directory trees: sizes, counts, the newest entry, and obstacles to a removal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from arawn_cli.errors import FAILURES_LISTED, Failure
from arawn_cli.fs.openat import Identity, identity_of
from arawn_cli.names import escape

BLOCK = 512
"""The unit of `st_blocks` on every filesystem, see stat(2)."""

CUT_BYTES = 511
"""The size of a path in a result that was cut; a shorter one is whole."""


class HardLinks(NamedTuple):
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


class Obstacle(NamedTuple):
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


class Usage(NamedTuple):
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
        obstacles: entries that keep this account from removing the tree. That the directory which
            holds the tree can be changed is not checked.
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
    linked: Mapping[Identity, HardLinks] = MappingProxyType({})
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
        return self._replace(failures=self.failures[:most], unlisted_failures=self.failure_count - most)

    def without_file(self, status: os.stat_result) -> Usage:
        """Return the usage without one regular file, which still counts for the newest mtime."""
        identity = identity_of(status)
        links = self.linked.get(identity)
        apparent, allocated = (links.apparent, links.allocated) if links else (status.st_size, status.st_blocks * BLOCK)
        return self._replace(
            apparent_bytes=max(self.apparent_bytes - apparent, 0),
            allocated_bytes=max(self.allocated_bytes - allocated, 0),
            files=max(self.files - 1, 0),
            linked={other: file for other, file in self.linked.items() if other != identity},
        )


def shown_path(path: bytes) -> str:
    """Return a path below a tree for people; one that was cut ends with `…`."""
    return escape(os.fsdecode(path)) + ("…" if len(path) == CUT_BYTES else "")


def in_order(usage: Usage) -> Usage:
    """Return a usage with failures, obstacles and other paths in the order of their paths."""
    return usage._replace(
        failures=tuple(sorted(usage.failures, key=lambda failure: (failure.path, failure.operation))),
        other_filesystems=tuple(sorted(usage.other_filesystems)),
        obstacles=tuple(sorted(usage.obstacles, key=lambda obstacle: (obstacle.path, obstacle.kind))),
        foreign_links=tuple(sorted(usage.foreign_links)),
    )


def combined(usages: Iterable[Usage]) -> Usage:
    """Return the usage of several trees; a file with names in more than one counts once.

    At most 20 failures are listed.
    """
    parts = list(usages)
    linked: dict[Identity, HardLinks] = {}
    repeated: list[HardLinks] = []
    for identity, links in (item for part in parts for item in part.linked.items()):
        known = linked.setdefault(identity, links)
        if known is not links:
            linked[identity] = known._replace(found=known.found + links.found)
            repeated.append(links)
    newest = max((part for part in parts if part.newest_mtime is not None), key=lambda part: part.newest_mtime or 0, default=Usage())
    usage = Usage(
        apparent_bytes=sum(part.apparent_bytes for part in parts) - sum(links.apparent for links in repeated),
        allocated_bytes=sum(part.allocated_bytes for part in parts) - sum(links.allocated for links in repeated),
        files=sum(part.files for part in parts) - len(repeated),
        directories=sum(part.directories for part in parts),
        largest_file_bytes=max((part.largest_file_bytes for part in parts), default=0),
        newest_mtime=newest.newest_mtime,
        linked=linked,
        failures=tuple(failure for part in parts for failure in part.failures),
        other_filesystems=tuple(path for part in parts for path in part.other_filesystems),
        sample_age_secs=max((part.sample_age_secs for part in parts), default=0),
        newest_path=newest.newest_path,
        obstacles=tuple(obstacle for part in parts for obstacle in part.obstacles),
        foreign_links=tuple(path for part in parts for path in part.foreign_links),
        unlisted_failures=sum(part.unlisted_failures for part in parts),
    )
    return in_order(usage).with_failures(FAILURES_LISTED)
