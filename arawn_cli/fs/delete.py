"""Delete directory trees, in C with several threads if the extension module exists."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress

from arawn_cli.errors import Failure, Operation, StoppedError
from arawn_cli.fs import measure
from arawn_cli.fs.openat import Descent
from arawn_cli.fs.usage import Usage

PARALLEL_MIN_FILES = 2000
"""A tree with fewer files is deleted by one thread: starting more costs more than it saves."""

_ROUNDS_MAX = 8  # a directory that is not empty after so many rounds has a writer; the next run tries again
_LISTED_MAX = 64  # failures of one tree that are reported one by one


def delete_trees(parent: int, names: Sequence[str], shown: str, threads: int, stopping: Callable[[], bool]) -> list[list[Failure]]:
    """Delete entries of the open directory `parent` by `delete_tree`; return their failures.

    `shown` is the path of the directory in failures. The walk in C leaves the entries that it
    cannot delete; Python goes through them again, and deletes or reports them.
    """
    if measure.native is not None:
        with suppress(StoppedError):
            subtrees = tuple((os.fsencode(name), False) for name in names)
            measure.native.delete(parent, subtrees, threads, measure.stop_when(stopping))
    return [delete_tree(parent, name, f"{shown}/{name}", stopping) for name in names]


def delete_tree(parent: int, name: str, shown: str, stopping: Callable[[], bool]) -> list[Failure]:
    """Delete the entry `name` of the open directory `parent`, and everything below it, in Python.

    An entry that cannot be deleted stays, with the directories above it, and is reported;
    everything else is deleted. Another filesystem is not entered. Once `stopping` returns true, the
    rest stays, which is not a failure.
    """
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
            return []
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Failure.of("delete", shown, error)]
    with Descent(parent, shown) as descent:
        return _Deletion(descent, status.st_dev, stopping).run(name)


def freed_bytes(before: Usage, left: Usage) -> int:
    """Return the apparent bytes that deleting a tree gave back; 0 if the rest is unknown."""
    if not left.complete or left.other_filesystems:
        return 0
    return max(before.freed_bytes - left.freed_bytes, 0)


class _Deletion:
    """The deletion of one tree.

    On entering a directory its files are deleted, on leaving it the directory itself.
    """

    def __init__(self, descent: Descent, device: int, stopping: Callable[[], bool]) -> None:
        self._descent = descent
        self._device = device
        self._stopping = stopping
        self._failures: list[Failure] = []
        self._unlisted = 0

    def run(self, name: str) -> list[Failure]:
        """Delete the tree as far as possible; return the first failures and a count."""
        try:
            self._enter(name)
            while self._descent.depth and not self._stopping():
                if self._descent.here.pending:
                    self._enter(self._descent.here.pending.pop())
                else:
                    self._leave()
        except OSError as error:  # the directory above cannot be opened again, or this one was moved away
            self._fail("open", "..", error)
        if not self._unlisted:
            return self._failures
        last = self._failures[-1]
        return [*self._failures, Failure(last.operation, last.path, last.errno, f"and {self._unlisted} more failures in this tree")]

    def _enter(self, name: str, round_: int = 1) -> None:
        """Go into a subdirectory and delete its files."""
        try:
            status = self._open(name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._fail("open", name, error)
            return
        if status.st_dev != self._device:
            self._descent.leave()
            self._fail("open", name, OSError(errno.EXDEV, os.strerror(errno.EXDEV)))
            return
        self._descent.here.round = round_
        try:
            with self._descent.scan() as listing:
                for entry in listing:
                    if self._stopping():
                        return
                    if entry.is_dir(follow_symlinks=False):
                        self._descent.here.pending.append(entry.name)
                    else:
                        self._delete_file(entry.name)
        except OSError as error:
            self._fail("list", None, error)

    def _open(self, name: str) -> os.stat_result:
        """Enter a directory and return its status; make a read-only one writable for its owner."""
        try:
            status = self._descent.enter(name)
        except PermissionError:
            _permit_all(name, self._descent.descriptor)
            status = self._descent.enter(name)
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with suppress(OSError):  # one of another account: the kernel decides
                os.fchmod(self._descent.descriptor, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
        return status

    def _delete_file(self, name: str) -> None:
        """Delete a file. One that became a directory meanwhile stays; the next round enters it."""
        try:
            os.unlink(name, dir_fd=self._descent.descriptor)
        except (FileNotFoundError, IsADirectoryError):
            return
        except OSError as error:
            self._fail("delete", name, error)

    def _leave(self) -> None:
        """Go back to the directory above and remove the one that was left.

        Enter it again if it is not empty.
        """
        left = self._descent.leave()
        if left.blocked:
            self._block()
            return
        try:
            os.rmdir(left.name, dir_fd=self._descent.descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and left.round < _ROUNDS_MAX:
                self._enter(left.name, left.round + 1)
            else:
                self._fail("delete", left.name, error)

    def _block(self) -> None:
        """Let the current directory stay, because something in it does."""
        if self._descent.depth:
            self._descent.here.blocked = True

    def _fail(self, operation: Operation, name: str | None, error: OSError) -> None:
        """Record a failure at the current directory or at its entry `name`, which stays."""
        self._block()
        if len(self._failures) < _LISTED_MAX:
            self._failures.append(Failure.of(operation, self._descent.path(name), error))
        else:
            self._unlisted += 1


def _permit_all(name: str, parent: int) -> None:
    """Give its owner all permissions of a directory that cannot be opened."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # fchmod(2) refuses such a descriptor.
        os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(os.fstat(descriptor).st_mode) | stat.S_IRWXU)
    finally:
        os.close(descriptor)
