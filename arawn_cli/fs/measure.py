"""Measure directory trees, in C where the native module is installed, else in Python.

Sizes are bytes, times nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from arawn_cli.errors import Failure
from arawn_cli.fs.openat import Descent, Identity, identity_of, opened_directory
from arawn_cli.names import escape
from arawn_cli.timestamps import SECOND, latest


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


_Numbers = tuple[int, int, int, int, int, tuple[int, int] | None]


_Links = list[tuple[int, int, int, int, int, int]]


Measured = tuple[_Numbers, _Links, list[tuple[str, bytes, int]], list[bytes]]
"""What `_usage.c` tells of a subtree: apparent and allocated bytes, files and directories, without files of several names; the size of
the largest file, with them; the newest mtime in seconds and nanoseconds; then (device, inode, apparent, allocated, met, links) for each
file of several names, perhaps in parts to be added up; (operation, path, errno) for each failure; and the paths of other filesystems.
Paths are below the subtree."""


class Native(Protocol):
    """What the native module does."""

    def measure(self, start: int, subtrees: tuple[tuple[bytes, bool], ...], threads: int, tick: Callable[[int], None], /) -> list[Measured]:
        """See `measure_all` of `usage`; `tick` gets how many subtrees were finished since its last call, and ends the walk by raising."""

    def unlink(self, directory: int, names: bytes, /) -> tuple[int, list[tuple[int, int]]]:
        """See `unlink` of `unlinking`; each name has a NUL behind it.

        Tells how many were tried in a twentieth of a second, and the place and errno of each that stays.
        """


def load() -> Native | None:
    """The module, or None where none was built for this version."""
    try:
        from arawn_cli.fs import _usage
    except ImportError:
        return None
    return _usage if hasattr(_usage, "unlink") else None  # one that was built for an earlier version, and not since


module = load()
"""What measures and unlinks natively, or None where it was not built."""


def walk(parent: int, name: str, shown: str, *, shallow: bool = False) -> Usage:
    """Measures the entry `name` of the open directory `parent`, and everything below it unless `shallow`.

    `shown` is its path for people. An entry that vanishes meanwhile is no failure.
    """
    tally = Tally()
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        return tally.fail("stat", shown, error).total()
    if shallow or not stat.S_ISDIR(top.st_mode):
        tally.add(top)
        return tally.total()
    with Descent(shown) as descent:
        _enter(descent, tally, name, parent, top.st_dev)
        try:
            while descent.depth:
                _step(descent, tally, top.st_dev)
        except OSError as error:
            tally.fail("openat", descent.path(".."), error)
    return tally.total()


def _enter(descent: Descent, tally: Tally, name: str, parent: int, device: int) -> None:
    try:
        status = descent.enter(name, parent)
    except OSError as error:
        tally.fail("openat", descent.path(name) if descent.depth else descent.path(), error)
        return
    if status.st_dev != device:
        tally.other_filesystems.append(escape(descent.path()))
        descent.leave()
        return
    tally.add(status)
    _list(descent, tally)


def _list(descent: Descent, tally: Tally) -> None:
    """Counts what the directory holds and keeps the names of its subdirectories."""
    pending = descent.here.pending
    try:
        with descent.scan() as listing:
            for entry in listing:
                try:
                    if entry.is_dir(follow_symlinks=False):  # a call that can fail, where a listing tells no kinds
                        pending.append(entry.name)
                    else:
                        tally.add(entry.stat(follow_symlinks=False))
                except OSError as error:
                    tally.fail("stat", descent.path(entry.name), error)
    except OSError as error:
        tally.fail("getdents64", descent.path(), error)


def _step(descent: Descent, tally: Tally, device: int) -> None:
    pending = descent.here.pending
    if pending:
        _enter(descent, tally, pending.pop(), descent.descriptor, device)
    else:
        descent.leave()


_THREADS_PER_PROCESSOR = 4  # most wait for the disk, where its contents are not in memory


_THREADS_MAX = 16


_DESCRIPTORS = 64  # for one thread: the way down a tree that it takes apart, and names of it that others unlink meanwhile


@dataclass(frozen=True, slots=True)
class Subtree:
    """A file or directory to measure: the names that lead to it from the starting directory, the last its own.

    `shallow` leaves out what is below it.
    """

    names: tuple[str, ...]
    shallow: bool = False

    @property
    def shown(self) -> str:
        """The path for people, relative to the starting directory."""
        return "/".join(self.names)


def _nobody(_finished: int) -> None:
    """Nobody waits to be told how far it is."""


def measure(parent: int, name: str, shown: str) -> Usage:
    """Measures the entry `name` of the open directory `parent`, and everything below it; `shown` is its path for people.

    Only regular files count in `apparent_bytes` and `files`, as Arawn counts;
    blocks are counted of everything. An entry that vanishes meanwhile is no failure.
    """
    if module is None:
        return _walk(parent, name, shown)
    (measured,) = module.measure(parent, ((os.fsencode(name), False),), 1, _nobody)
    usage = _usage(measured, shown)
    return _walk(parent, name, shown) if _lacked_descriptors(usage) else usage


def measure_all(start: int, subtrees: Sequence[Subtree], threads: int, advance: Callable[[int], None] = _nobody) -> list[Usage]:
    """Measures every subtree below the open directory `start`, natively by so many threads.

    `advance` is called from this thread every now and then, with the number of subtrees that were finished since; what
    it raises ends the measuring. The answers have the order of the subtrees.
    """
    if module is None:
        return _measure_in_python(start, subtrees, advance)
    given = tuple((b"\0".join(map(os.fsencode, subtree.names)), subtree.shallow) for subtree in subtrees)
    found = module.measure(start, given, threads, advance)
    usages = [_usage(measured, subtree.shown) for measured, subtree in zip(found, subtrees, strict=True)]
    return [_walk_at(start, subtree) if _lacked_descriptors(usage) else usage for usage, subtree in zip(usages, subtrees, strict=True)]


def threads_for(configured: int) -> int:
    """How many threads measure and remove: as configured, or for 0 by the processors that this process may use.

    Fewer where the process may not have descriptors enough for so many.
    """
    wanted = configured or min(len(os.sched_getaffinity(0)) * _THREADS_PER_PROCESSOR, _THREADS_MAX)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(wanted, descriptors // _DESCRIPTORS), 1)


def means_of_measuring() -> str:
    """What measures, for people."""
    return "measures in Python: the native module was not built" if module is None else "measures natively, on every core"


def _measure_in_python(start: int, subtrees: Sequence[Subtree], advance: Callable[[int], None]) -> list[Usage]:
    """In this thread alone: several would take turns at the interpreter, which costs more than a second processor gives."""
    usages = []
    for subtree in subtrees:
        usages.append(_walk_at(start, subtree))
        advance(1)
    return usages


def _walk_at(start: int, subtree: Subtree) -> Usage:
    shown = subtree.shown
    if len(subtree.names) == 1:
        return _walk(start, subtree.names[0], shown, shallow=subtree.shallow)
    try:
        with opened_directory(start, *subtree.names[:-1]) as parent:
            return _walk(parent, subtree.names[-1], shown, shallow=subtree.shallow)
    except OSError as error:
        return Tally().fail("openat", shown, error).total()


def _walk(parent: int, name: str, shown: str, *, shallow: bool = False) -> Usage:
    return walk(parent, name, shown, shallow=shallow)


def _usage(measured: Measured, shown: str) -> Usage:
    (apparent, allocated, files, directories, largest, time), links, failures, others = measured
    newest = None if time is None else time[0] * SECOND + time[1]
    if not (links or failures or others):
        return Usage(apparent, allocated, files, directories, largest, newest)
    tally = Tally(apparent, allocated, files, directories, largest, newest)
    for device, inode, size, blocks, met, count in links:
        tally.link((device, inode), HardLinks(size, blocks, met, count))
    tally.failures += [Failure(operation, _below(shown, path), number) for operation, path, number in failures]
    tally.other_filesystems += [_below(shown, path) for path in others]
    return tally.total()


def _below(shown: str, path: bytes) -> str:
    return escape(f"{shown}/{os.fsdecode(path)}" if path else shown)


def _lacked_descriptors(usage: Usage) -> bool:
    """Whether the threads of the native walk ran out of descriptors, of which the one in Python needs fewer."""
    return any(failure.errno in (errno.EMFILE, errno.ENFILE) for failure in usage.failures)
