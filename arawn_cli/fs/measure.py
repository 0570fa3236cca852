"""Measure directory trees, in C if the extension module was built, else in Python.

The Python walk is the specification of the C walk: both return the same values. Sizes are in
bytes, times in nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from arawn_cli.errors import Failure, Operation, StoppedError
from arawn_cli.fs import native
from arawn_cli.fs.openat import Descent, opened_directory
from arawn_cli.fs.permissions import Account, can_access, is_flagged, is_sticky
from arawn_cli.fs.usage import CUT_BYTES, FINDINGS_MAX, HardLinks, Obstacle, ObstacleKind, Usage, UsageAccumulator, shown_path
from arawn_cli.names import escape
from arawn_cli.timestamps import SECOND

_THREADS_PER_PROCESSOR = 4  # most threads wait for the disk, unless its contents are cached
_THREADS_MAX = 16
_LISTED_MAX = 1000  # failures that are listed for all trees; after that one of each tree
_DESCRIPTORS_PER_THREAD = 64  # a walk needs half of them, a deletion with its queue about all


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
    """Return an `advance` that ends a walk with StoppedError once `stopping` is true."""

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
    """Whether C ran out of descriptors or the tree is too deep; Python needs fewer."""
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
            if len(self.accumulator.other_filesystems) < FINDINGS_MAX:
                self.accumulator.other_filesystems.append(self._path(None))
            self.descent.leave()
            return
        self._add(None, status, sticky=sticky, flagged=is_flagged(self.descent.descriptor))
        # The owner may give itself access; for others even the right to change the mode would not
        # do.
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
        """Count the entries of the current directory; `closed`: its status if none is removable."""
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
        """Count an entry of the current directory or itself, and check that it is removable."""
        self.accumulator.add_entry(status, lambda: self.descent.beginning(name, CUT_BYTES))
        owner = self.account.may_act_as_owner(status)
        if flagged:
            self._obstruct(ObstacleKind.FLAGGED, name, status)
        elif sticky and not owner:
            self._obstruct(ObstacleKind.FOREIGN, name, status)
        linked = not owner and stat.S_ISREG(status.st_mode) and status.st_nlink > 1
        if linked and len(self.accumulator.foreign_links) < FINDINGS_MAX:
            self.accumulator.foreign_links.append(self.descent.beginning(name, CUT_BYTES))

    def _obstruct(self, kind: ObstacleKind, name: str | None, status: os.stat_result) -> None:
        self.accumulator.add_obstacle(kind, self.descent.beginning(name, CUT_BYTES), status.st_uid)

    def fail(self, operation: Operation, name: str | None, error: OSError) -> None:
        """Record a failure at the current directory or at its entry `name`."""
        self.accumulator.add_failure(operation, self._path(name), error)

    def _path(self, name: str | None) -> str:
        return _path_below(self.shown, self.descent.beginning(name, CUT_BYTES))
