"""Measure directory trees, in C if the extension module was built, else in Python.

The Python walk is the specification of the C walk: both return the same values. Sizes are in
bytes, times in nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

from arawn_cli.errors import FAILURES_LISTED, Failure, Operation, StoppedError
from arawn_cli.fs import native
from arawn_cli.fs.openat import Descent, Identity, identity_of, opened_directory
from arawn_cli.fs.permissions import Account, can_access, is_flagged, is_sticky
from arawn_cli.names import escape
from arawn_cli.timestamps import SECOND

_BLOCK = 512  # unit of st_blocks on every filesystem, see stat(2)
_THREADS_PER_PROCESSOR = 4  # most threads wait for the disk, unless its contents are cached
_THREADS_MAX = 16
CUT_BYTES = 511
"""The size of a path in a result that was cut; a shorter one is whole."""

_FINDINGS_MAX = 16  # of each kind that are listed for a tree
_LISTED_MAX = 1000  # failures that are listed for all trees; after that one of each tree
_DESCRIPTORS_PER_THREAD = 64  # a walk needs half of them, a deletion with its queue about all


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
        kind: FOREIGN for a directory of another account that is not empty and that it cannot change,
            or for an entry of a sticky one; FLAGGED for an immutable or append-only entry.
        path: the first 511 bytes of its path below the tree; empty for the tree itself.
        owner: user id of the entry.
    """

    kind: ObstacleKind
    path: bytes
    owner: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of one or more trees. At most 16 failures, obstacles and paths of each kind are listed for a tree.

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
        newest_path: first 511 bytes of the path below its tree of the entry with the newest mtime; of
            several, the first in the order of bytes. Empty for the tree itself, and if an earlier check
            measured it.
        obstacles: what keeps this account from removing the tree. That the directory which holds the
            tree can be changed is not checked.
        foreign_links: paths, as in obstacles, of regular files of other accounts with several names.
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
        """The path of the newest entry for people: `.` for the tree itself, `…` at the end of one that is cut."""
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
        """Return the usage without one regular file of the trees. It still counts for the newest mtime."""
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
        if sum(failure.operation == operation for failure in self.failures) >= _FINDINGS_MAX:
            self.unlisted_failures += 1
        else:
            self.failures.append(replace(Failure.of(operation, "", error), path=path))

    def add_obstacle(self, kind: ObstacleKind, path: bytes, owner: int) -> None:
        """Add an entry that cannot be removed."""
        if sum(obstacle.kind is kind for obstacle in self.obstacles) < _FINDINGS_MAX:
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


# ---- Measuring


@dataclass(frozen=True, slots=True)
class Subtree:
    """A file or directory to measure.

    `names` is its path from the start directory. `shallow` leaves out everything below it. `shown`
    is its path in failures, if not the path from the start directory.
    """

    names: tuple[str, ...]
    shallow: bool = False
    shown: str = ""

    @property
    def path(self) -> str:
        """The path in failures."""
        return self.shown or "/".join(self.names)


def _ignore_progress(_finished: int) -> None:
    """Report no progress."""


def stop_when(stopping: Callable[[], bool]) -> Callable[[int], None]:
    """Return a function that, as `advance`, ends a walk with StoppedError once `stopping` returns true."""

    def advance(_finished: int) -> None:
        if stopping():
            raise StoppedError("stopped by a signal")

    return advance


def measure(parent: int, name: str, path: str, advance: Callable[[int], None] = _ignore_progress) -> Usage:
    """Measure the entry `name` of the open directory `parent` as `measure_all`, in one thread.

    `path` is the path of the entry in failures.
    """
    return measure_all(parent, [Subtree((name,), shown=path)], 1, advance)[0]


def measure_all(start: int, subtrees: Sequence[Subtree], threads: int, advance: Callable[[int], None] = _ignore_progress) -> list[Usage]:
    """Measure subtrees of the open directory `start` and return their usages in the same order.

    `apparent_bytes` and `files` count regular files only, as Arawn does; `allocated_bytes` counts
    everything. An entry that somebody removes in the meantime is no failure. `advance` gets the
    number of subtrees that were finished since its last call, 20 times a second in C and after
    each subtree in Python. It runs in the calling thread; an exception in it, or in a signal
    handler, stops the walk.
    """
    if native.module is not None:
        given = tuple((b"\0".join(map(os.fsencode, subtree.names)), subtree.shallow) for subtree in subtrees)
        account = Account.current()
        found = native.module.measure(start, given, threads, advance, (account.user, account.acts_as_owner, account.unmapped))
        if found is not None:
            usages = [_usage_of(result, subtree.path) for result, subtree in zip(found, subtrees, strict=True)]
            return [
                _walk_subtree(start, subtree, advance) if _lacked_descriptors(result) else usage
                for usage, result, subtree in zip(usages, found, subtrees, strict=True)
            ]
    # In this thread alone: several threads would take turns at the interpreter lock, which costs
    # more than a second processor gains.
    usages = []
    listed = 0
    for subtree in subtrees:
        usage = _walk_subtree(start, subtree, advance)
        usages.append(usage if listed < _LISTED_MAX else usage.with_failures(1))
        listed += len(usage.failures)
        advance(1)
    return usages


def threads_for(configured: int) -> int:
    """Return how many threads to use for measuring and deleting; 0 is the default for this machine.

    Return fewer if the limit on open files is too low for so many.
    """
    wanted = configured or min(len(os.sched_getaffinity(0)) * _THREADS_PER_PROCESSOR, _THREADS_MAX)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(wanted, descriptors // _DESCRIPTORS_PER_THREAD), 1)


def _usage_of(result: native.NativeUsage, path: str) -> Usage:
    (apparent, allocated, files, directories, largest, time, failed), links, findings = result
    newest = None if time is None else time[0] * SECOND + time[1]
    newest_path = b"" if time is None else time[2]
    if not (links or findings):
        return Usage(apparent, allocated, files, directories, largest, newest, newest_path=newest_path)
    accumulator = UsageAccumulator(apparent, allocated, files, directories, largest, newest, newest_path=newest_path)
    for device, inode, size, blocks, found, names in links:
        accumulator.add_links((device, inode), HardLinks(size, blocks, found, names))
    for kind, below, number in findings:
        match kind:
            case "open" | "list" | "measure":
                accumulator.failures.append(Failure(kind, _path_below(path, below), number))
            case "mounted":
                accumulator.other_filesystems.append(_path_below(path, below))
            case "descriptor":
                pass  # it is measured again
            case "linked":
                accumulator.foreign_links.append(below)
            case _:
                accumulator.obstacles.append(Obstacle(ObstacleKind(kind), below, number))
    accumulator.unlisted_failures = failed - len(accumulator.failures)
    return accumulator.result()


def _path_below(path: str, below: bytes) -> str:
    return f"{escape(path)}/{shown_path(below)}" if below else escape(path)


def _lacked_descriptors(result: native.NativeUsage) -> bool:
    """Whether the walk in C ran out of descriptors, or the tree is too deep for it. The one in Python needs fewer."""
    return any(kind == "descriptor" for kind, _, _ in result[2])


# ---- The walk in Python


def _walk_subtree(start: int, subtree: Subtree, advance: Callable[[int], None]) -> Usage:
    *parents, name = subtree.names
    if not parents:
        return walk(start, name, subtree.path, advance, shallow=subtree.shallow)
    try:
        with opened_directory(start, *parents) as parent:
            return walk(parent, name, subtree.path, advance, shallow=subtree.shallow)
    except OSError as error:
        return _failed("open", subtree.path, error)


def _failed(operation: Operation, path: str, error: OSError) -> Usage:
    accumulator = UsageAccumulator()
    accumulator.add_failure(operation, escape(path), error)
    return accumulator.result()


def walk(parent: int, name: str, path: str, advance: Callable[[int], None] = _ignore_progress, *, shallow: bool = False) -> Usage:
    """Measure the entry `name` of the open directory `parent` in Python.

    `path` is the path of the entry in failures. No link is followed and no other filesystem
    entered. `advance` is called with 0 for each directory, so that it can end the walk.
    """
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        return _failed("measure", path, error)
    accumulator = UsageAccumulator()
    if shallow or not stat.S_ISDIR(top.st_mode):
        accumulator.add_entry(top)
        return accumulator.result()
    with Descent(path) as descent:
        walk = _Walk(descent, accumulator, Account.current(), path, top.st_dev)
        walk.enter(name, parent)
        try:
            while descent.depth:
                pending = descent.here.pending
                if pending:
                    advance(0)
                    walk.enter(pending.pop(), descent.descriptor)
                else:
                    descent.leave()
        except OSError as error:
            walk.fail("open", "..", error)
    return accumulator.result()


@dataclass(frozen=True, slots=True)
class _Walk:
    """A walk through the filesystem `device`; `shown` is the path of the tree in failures."""

    descent: Descent
    accumulator: UsageAccumulator
    account: Account
    shown: str
    device: int

    def enter(self, name: str, parent: int) -> None:
        """Enter a directory, count its entries and collect its subdirectories."""
        name_below = name if self.descent.depth else None
        sticky = self.descent.depth > 0 and self.descent.here.sticky
        try:
            status = self.descent.enter(name, parent)
        except OSError as error:
            self.fail("open", name_below, error)
            with suppress(OSError):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if error.errno == errno.EACCES and status.st_uid != self.account.user:
                    self._obstruct(ObstacleKind.FOREIGN, name_below, status)
            return
        if status.st_dev != self.device:
            if len(self.accumulator.other_filesystems) < _FINDINGS_MAX:
                self.accumulator.other_filesystems.append(self._path(None))
            self.descent.leave()
            return
        self._add(None, status, sticky=sticky, flagged=is_flagged(self.descent.descriptor))
        # The owner may give itself access; for others even the right to change the mode would not do.
        closed = status.st_uid != self.account.user and not can_access(self.descent.descriptor, os.W_OK | os.X_OK)
        if (closed or status.st_mode & stat.S_IRWXU != stat.S_IRWXU) and not can_access(self.descent.descriptor, os.X_OK):
            self.fail("open", None, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            if closed:
                self._obstruct(ObstacleKind.FOREIGN, None, status)
            self.descent.leave()
            return
        self.descent.here.sticky = is_sticky(status, self.account)
        self._list(status if closed else None)

    def _list(self, closed: os.stat_result | None) -> None:
        """Count the entries of the current directory; `closed` is its status if none of them can be removed."""
        here = self.descent.here
        try:
            with self.descent.scan() as listing:
                for entry in listing:
                    if closed:
                        self._obstruct(ObstacleKind.FOREIGN, None, closed)
                        closed = None
                    try:
                        if entry.is_dir(follow_symlinks=False):  # calls stat(2) if the filesystem lists no types
                            here.pending.append(entry.name)
                        else:
                            flagged = is_flagged(self.descent.descriptor, entry.name)
                            self._add(entry.name, entry.stat(follow_symlinks=False), sticky=here.sticky, flagged=flagged)
                    except OSError as error:
                        self.fail("measure", entry.name, error)
        except OSError as error:
            self.fail("list", None, error)

    def _add(self, name: str | None, status: os.stat_result, *, sticky: bool, flagged: bool) -> None:
        """Count an entry of the current directory, or the directory itself, and check whether it can be removed."""
        self.accumulator.add_entry(status, lambda: self.descent.beginning(name, CUT_BYTES))
        owner = self.account.may_act_as_owner(status)
        if flagged:
            self._obstruct(ObstacleKind.FLAGGED, name, status)
        elif sticky and not owner:
            self._obstruct(ObstacleKind.FOREIGN, name, status)
        linked = not owner and stat.S_ISREG(status.st_mode) and status.st_nlink > 1
        if linked and len(self.accumulator.foreign_links) < _FINDINGS_MAX:
            self.accumulator.foreign_links.append(self.descent.beginning(name, CUT_BYTES))

    def _obstruct(self, kind: ObstacleKind, name: str | None, status: os.stat_result) -> None:
        self.accumulator.add_obstacle(kind, self.descent.beginning(name, CUT_BYTES), status.st_uid)

    def fail(self, operation: Operation, name: str | None, error: OSError) -> None:
        """Record a failure at the current directory or at its entry `name`."""
        self.accumulator.add_failure(operation, self._path(name), error)

    def _path(self, name: str | None) -> str:
        return _path_below(self.shown, self.descent.beginning(name, CUT_BYTES))
