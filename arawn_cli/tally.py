"""Adding up what trees use: a file with several names counts once, however many of them are met."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from arawn_cli.model import Failure, HardLinks, Identity, Usage, identity_of, latest

_BLOCK = 512  # the unit of st_blocks, whatever the filesystem's block size (stat(2))


def combined(usages: Iterable[Usage]) -> Usage:
    """What several trees use together: a file with names in more than one of them counts once."""
    tally = Tally()
    for usage in usages:
        tally.merge(usage)
    return tally.total()


@dataclass(slots=True)
class Tally:
    """A sum that grows: the fields of `Usage`, files with several names apart in `linked`."""

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

    def add(self, status: os.stat_result) -> None:
        """Counts one entry of a tree."""
        if self.newest is None or status.st_mtime_ns > self.newest:
            self.newest = status.st_mtime_ns
        allocated = status.st_blocks * _BLOCK
        if stat.S_ISDIR(status.st_mode):
            self.directories += 1
        elif stat.S_ISREG(status.st_mode):
            self.largest = max(self.largest, status.st_size)
            if status.st_nlink > 1:
                self.link(identity_of(status), HardLinks(status.st_size, allocated, 1, status.st_nlink))
                return
            self.files += 1
            self.apparent += status.st_size
        self.allocated += allocated

    def link(self, identity: Identity, found: HardLinks) -> None:
        """Counts a file by one or more of its names."""
        known = self.linked.get(identity)
        if known is not None:
            self.linked[identity] = replace(known, met=known.met + found.met)
            return
        self.linked[identity] = found
        self.files += 1
        self.apparent += found.apparent
        self.allocated += found.allocated

    def fail(self, operation: str, path: str, error: OSError) -> Tally:
        """Keeps a failure; what vanished meanwhile is none."""
        if not isinstance(error, FileNotFoundError):
            self.failures.append(Failure.of(operation, path, error))
        return self

    def merge(self, usage: Usage) -> None:
        """Counts a tree that was added up before."""
        if usage.linked:
            shared = usage.linked.values()
            self.apparent -= sum(file.apparent for file in shared)
            self.allocated -= sum(file.allocated for file in shared)
            self.files -= len(shared)
            for identity, file in usage.linked.items():
                self.link(identity, file)
        self.apparent += usage.apparent_bytes
        self.allocated += usage.allocated_bytes
        self.files += usage.files
        self.directories += usage.directories
        self.largest = max(self.largest, usage.largest_file_bytes)
        self.newest = latest(self.newest, usage.newest_mtime)
        self.failures += usage.failures
        self.other_filesystems += usage.other_filesystems
        self.sample_age_secs = max(self.sample_age_secs, usage.sample_age_secs)

    def total(self) -> Usage:
        """The sum; failures and other filesystems in the order of their paths, whichever was met first."""
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
        )
