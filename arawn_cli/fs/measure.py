"""Measure directory trees, in C if the extension module was built, else in Python.

The Python walk is the specification of the C walk: both return the same values. Sizes are in
bytes, times in nanoseconds since the Unix epoch.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Literal, NamedTuple, Protocol, cast

from arawn_cli.errors import Failure, StoppedError
from arawn_cli.fs.openat import Descent, Identity, identity_of, open_directory
from arawn_cli.fs.permissions import Account, can_access, is_flagged, is_sticky
from arawn_cli.fs.usage import BLOCK, CUT_BYTES, HardLinks, Obstacle, ObstacleKind, Usage, in_order, shown_path
from arawn_cli.names import escape
from arawn_cli.timestamps import SECOND

_THREADS_PER_PROCESSOR = 4  # most threads wait for the disk, unless its contents are cached
_THREADS_DEFAULT_MAX, _THREADS_MAX = 16, 64
_DESCRIPTORS_PER_THREAD = 64  # a walk needs half of them, a deletion with its queue about all
_FINDINGS_MAX = 16  # findings of each kind that are listed for a tree
_LISTED_MAX = 1000  # findings that are listed for all trees; after that one of each kind and tree

_Kind = Literal["descriptor", "open", "list", "measure", "mounted", "foreign", "flagged", "linked"]
_Finding = tuple[_Kind, bytes, int]
_Links = tuple[int, int, int, int, int, int]

Measured = tuple[int, int, int, int, int, tuple[int, int, bytes | None], int, list[_Links], list[_Finding]]
"""The usage of a subtree as a walk returns it.

- Apparent and allocated bytes, files and directories, without files with several names; the size of
  the largest file; the newest mtime as seconds and nanoseconds, and its path, None if nothing was
  measured; the number of failures, listed or not.
- For each file with several names: device, inode, apparent and allocated bytes, names found, names.
- Kind, path below the subtree and a number: for each failure the operation and errno; for the rest
  `mounted`, `foreign`, `flagged` or `linked`, and the owner; `descriptor` if C ran out of
  descriptors or the tree is too deep, and Python must measure it.
"""

NativeSubtrees = tuple[tuple[bytes, bool], ...]
"""Of each subtree its names, separated by NUL, and whether it is shallow."""


class Native(Protocol):
    """The extension module, which walks with several threads.

    `advance` gets the number of subtrees that were finished since its last call, 20 times a second.
    An exception in it, or in a signal handler, stops the walk.
    """

    def measure(
        self, start: int, subtrees: NativeSubtrees, threads: int, advance: Callable[[int], None], account: tuple[int, bool, int], /
    ) -> list[Measured] | None:
        """Measure subtrees for an `Account`; return None if no thread can be started."""

    def delete(self, start: int, subtrees: NativeSubtrees, threads: int, advance: Callable[[int], None], /) -> None:
        """Delete directories below an open one as far as possible."""


def load() -> Native | None:
    """Return the extension module, or None if it was not built for this version."""
    try:
        module = import_module("arawn_cli.fs._measure")
    except ImportError:
        return None
    return cast("Native", module) if hasattr(module, "delete") else None


native = load()
"""The extension module, or None."""


def measuring_method() -> str:
    """Return how trees are measured, for people."""
    return "measures in Python: the native module was not built" if native is None else "measures natively, on every core"


class Subtree(NamedTuple):
    """A file or directory to measure.

    `names` is its path from the start directory. `shallow` leaves out everything below it. `shown`
    is its path in failures, if not the path from the start directory.
    """

    names: tuple[str, ...]
    shallow: bool = False
    shown: str = ""


def _ignore_progress(_finished: int) -> None:
    """Report no progress."""


def stop_when(stopping: Callable[[], bool]) -> Callable[[int], None]:
    """Return an `advance` that ends a walk with StoppedError once `stopping` is true."""

    def advance(_finished: int) -> None:
        if stopping():
            raise StoppedError

    return advance


def measure(parent: int, name: str, path: str, advance: Callable[[int], None] = _ignore_progress) -> Usage:
    """Measure the entry `name` of the open directory `parent` as `measure_all`, in one thread.

    `path` is the path of the entry in failures.
    """
    return measure_all(parent, [Subtree((name,), shown=path)], 1, advance)[0]


def measure_all(start: int, subtrees: Sequence[Subtree], threads: int, advance: Callable[[int], None] = _ignore_progress) -> list[Usage]:
    """Measure subtrees of the open directory `start` and return their usages in the same order.

    `apparent_bytes` and `files` count regular files only, as Arawn does; `allocated_bytes` counts
    everything. An entry that somebody removes in the meantime is not a failure. `advance` gets
    the number of subtrees that were finished since its last call, 20 times a second in C and after
    each subtree in Python. It runs in the calling thread; an exception in it, or in a signal
    handler, stops the walk.
    """
    account = Account.current()
    results: list[Measured] | None = None
    if native is not None:
        given = tuple((b"\0".join(map(os.fsencode, subtree.names)), subtree.shallow) for subtree in subtrees)
        results = native.measure(start, given, threads, advance, account)
    if results is None:
        results = list(_measured_in_python(start, subtrees, account, advance))
    usages = []
    for subtree, result in zip(subtrees, results, strict=True):
        lacked_descriptors = any(kind == "descriptor" for kind, _, _ in result[-1])
        measured = _walked(start, subtree, account, advance) if lacked_descriptors else result
        usages.append(_usage_of(measured, subtree.shown or "/".join(subtree.names)))
    return usages


def threads_for(configured: int) -> int:
    """Return how many threads to use for measuring and deleting; 0 is the default for this machine.

    Return fewer if the limit on open files is too low for so many.
    """
    wanted = min(configured, _THREADS_MAX) or min(len(os.sched_getaffinity(0)) * _THREADS_PER_PROCESSOR, _THREADS_DEFAULT_MAX)
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(wanted, descriptors // _DESCRIPTORS_PER_THREAD), 1)


def _usage_of(measured: Measured, path: str) -> Usage:
    """Return the usage of a subtree; `path` is its path in failures."""
    apparent, allocated, files, directories, largest, newest, failed, links, findings = measured
    seconds, nanoseconds, newest_path = newest
    linked: dict[Identity, HardLinks] = {}
    for device, inode, *counts in links:
        file = linked[device, inode] = HardLinks(*counts)
        apparent += file.apparent
        allocated += file.allocated
    failures: list[Failure] = []
    others: list[str] = []
    obstacles: list[Obstacle] = []
    foreign_links: list[bytes] = []
    for kind, below, number in findings:
        shown = f"{escape(path)}/{shown_path(below)}" if below else escape(path)
        match kind:
            case "open" | "list" | "measure":
                failures.append(Failure(kind, shown, number))
            case "mounted":
                others.append(shown)
            case "linked":
                foreign_links.append(below)
            case "foreign" | "flagged":
                obstacles.append(Obstacle(ObstacleKind(kind), below, number))
    usage = Usage(
        apparent_bytes=apparent,
        allocated_bytes=allocated,
        files=files + len(linked),
        directories=directories,
        largest_file_bytes=largest,
        newest_mtime=None if newest_path is None else seconds * SECOND + nanoseconds,
        linked=linked,
        failures=tuple(failures),
        other_filesystems=tuple(others),
        newest_path=newest_path or b"",
        obstacles=tuple(obstacles),
        foreign_links=tuple(foreign_links),
        unlisted_failures=failed - len(failures),
    )
    return in_order(usage) if findings else usage


# ---- The walk in Python


def _measured_in_python(start: int, subtrees: Sequence[Subtree], account: Account, advance: Callable[[int], None]) -> Iterator[Measured]:
    """Yield the usages of subtrees.

    In this thread alone: several threads would take turns at the interpreter lock, which costs more
    than a second processor gains.
    """
    listed = 0
    for subtree in subtrees:
        measured = _walked(start, subtree, account, advance, _FINDINGS_MAX if listed < _LISTED_MAX else 1)
        listed += len(measured[-1])
        advance(1)
        yield measured


def _walked(start: int, subtree: Subtree, account: Account, advance: Callable[[int], None], most: int = _FINDINGS_MAX) -> Measured:
    """Measure a subtree, and list up to `most` findings of each kind.

    No link is followed and no other filesystem entered. `advance` is called with 0 for each
    directory, so that it can end the walk.
    """
    *parents, name = subtree.names
    with ExitStack() as opened:
        holder, failure = start, None
        try:
            for above in parents:
                holder = open_directory(above, holder)
                opened.callback(os.close, holder)
        except OSError as error:
            failure = error
        walk = _Walk(opened.enter_context(Descent(holder)), account, most)
        if failure:
            walk.fail("open", None, failure)
        else:
            walk.run(name, advance, shallow=subtree.shallow)
        return walk.result()


class _Walk:
    """A walk through one tree."""

    def __init__(self, descent: Descent, account: Account, most: int) -> None:
        self._descent = descent
        self._account = account
        self._most = most
        self._device = 0
        self._apparent = self._allocated = self._files = self._directories = self._largest = 0
        self._newest: tuple[int, bytes] | None = None
        self._linked: dict[Identity, HardLinks] = {}
        self._found: Counter[_Kind] = Counter()
        self._findings: list[_Finding] = []

    def run(self, name: str, advance: Callable[[int], None], *, shallow: bool) -> None:
        """Measure the entry `name` of the directory that holds the tree."""
        try:
            top = os.stat(name, dir_fd=self._descent.descriptor, follow_symlinks=False)
        except OSError as error:
            self.fail("measure", None, error)
            return
        if shallow or not stat.S_ISDIR(top.st_mode):
            self._count(None, top)
            return
        self._device = top.st_dev
        self._enter(name)
        try:
            while self._descent.depth:
                if self._descent.here.pending:
                    advance(0)
                    self._enter(self._descent.here.pending.pop())
                else:
                    self._descent.leave()
        except OSError as error:
            self.fail("open", "..", error)

    def _enter(self, name: str) -> None:
        """Enter a directory, count its entries and collect its subdirectories."""
        descent = self._descent
        sticky = descent.depth > 0 and descent.here.sticky
        try:
            status = descent.enter(name)
        except OSError as error:
            self._fail_to_enter(name, error)
            return
        if status.st_dev != self._device:
            self._find("mounted", None, 0)
            descent.leave()
            return
        self._count(None, status)
        self._check_removable(None, status, sticky=sticky)
        # The owner may give itself access; for others even the right to change the mode would not
        # do.
        closed = status.st_uid != self._account.user and not can_access(descent.descriptor, os.W_OK | os.X_OK)
        if (closed or status.st_mode & stat.S_IRWXU != stat.S_IRWXU) and not can_access(descent.descriptor, os.X_OK):
            descent.leave()
            self._fail_to_enter(name, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            return
        descent.here.sticky = is_sticky(status, self._account)
        self._list(status if closed else None)

    def _fail_to_enter(self, name: str, error: OSError) -> None:
        """Record a failure; nothing can be removed from a closed directory of another account."""
        shown = name if self._descent.depth else None
        self.fail("open", shown, error)
        if error.errno == errno.EACCES:
            with suppress(OSError):
                owner = os.stat(name, dir_fd=self._descent.descriptor, follow_symlinks=False).st_uid
                if owner != self._account.user:
                    self._find("foreign", shown, owner)

    def _list(self, closed: os.stat_result | None) -> None:
        """Count the entries of the current directory; `closed`: its status if none is removable."""
        here = self._descent.here
        try:
            with self._descent.scan() as listing:
                for entry in listing:
                    if closed:
                        self._find("foreign", None, closed.st_uid)
                        closed = None
                    try:
                        if entry.is_dir(follow_symlinks=False):  # calls stat(2) if the filesystem lists no types
                            here.pending.append(entry.name)
                        else:
                            status = entry.stat(follow_symlinks=False)
                            self._count(entry.name, status)
                            self._check_removable(entry.name, status, sticky=here.sticky)
                    except OSError as error:
                        self.fail("measure", entry.name, error)
        except OSError as error:
            self.fail("list", None, error)

    def _count(self, name: str | None, status: os.stat_result) -> None:
        """Count an entry of the current directory, or that directory itself."""
        mtime, newest = status.st_mtime_ns, self._newest
        if newest is None or mtime > newest[0]:
            self._newest = mtime, self._path(name)
        elif mtime == newest[0]:
            self._newest = mtime, min(newest[1], self._path(name))
        allocated = status.st_blocks * BLOCK
        if stat.S_ISREG(status.st_mode):
            self._largest = max(self._largest, status.st_size)
            if status.st_nlink > 1:
                identity = identity_of(status)
                if known := self._linked.get(identity):
                    self._linked[identity] = known._replace(found=known.found + 1)
                else:
                    self._linked[identity] = HardLinks(status.st_size, allocated, 1, status.st_nlink)
                return
            self._files += 1
            self._apparent += status.st_size
        elif stat.S_ISDIR(status.st_mode):
            self._directories += 1
        self._allocated += allocated

    def _check_removable(self, name: str | None, status: os.stat_result, *, sticky: bool) -> None:
        """Find why the account cannot remove an entry of the current directory, or itself."""
        owner = self._account.may_act_as_owner(status)
        if is_flagged(self._descent.descriptor, name or ""):
            self._find("flagged", name, status.st_uid)
        elif sticky and not owner:
            self._find("foreign", name, status.st_uid)
        if not owner and stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            self._find("linked", name, status.st_uid)

    def fail(self, operation: Literal["open", "list", "measure"], name: str | None, error: OSError) -> None:
        """Record a failure at the current directory or at its entry `name`.

        That somebody removed it in the meantime is none.
        """
        if not isinstance(error, FileNotFoundError):
            self._find(operation, name, error.errno or errno.EIO)

    def _find(self, kind: _Kind, name: str | None, number: int) -> None:
        if self._found[kind] < self._most:
            self._findings.append((kind, self._path(name), number))
        self._found[kind] += 1

    def _path(self, name: str | None) -> bytes:
        return self._descent.beginning(name, CUT_BYTES)

    def result(self) -> Measured:
        """Return the measurements of the walk."""
        mtime, newest_path = self._newest or (0, None)
        newest = *divmod(mtime, SECOND), newest_path
        failed = sum(self._found[operation] for operation in ("open", "list", "measure"))
        links = [(*identity, file.apparent, file.allocated, file.found, file.names) for identity, file in self._linked.items()]
        return self._apparent, self._allocated, self._files, self._directories, self._largest, newest, failed, links, self._findings
