"""Delete directory trees, in C with several threads if the extension module exists."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from arawn_cli.errors import Failure, Operation, StoppedError
from arawn_cli.fs import native
from arawn_cli.fs.measure import stop_when
from arawn_cli.fs.openat import Descent
from arawn_cli.fs.usage import Usage

PARALLEL_MIN_FILES = 2000
"""A tree with fewer files is deleted by one thread: starting more costs more than it saves."""

_CHUNK_MAX = 256  # directory entries that are listed before the files among them are deleted
_ROUNDS_MAX = 8  # a directory that is not empty after so many rounds has a writer; the next run tries again
_LISTED_MAX = 64  # failures of one tree that are reported one by one


def delete_trees(parent: int, names: Sequence[str], shown: str, threads: int, stopping: Callable[[], bool]) -> list[list[Failure]]:
    """Delete entries of the open directory `parent` by `delete_tree`; return their failures.

    `shown` is the path of the directory in failures. The walk in C leaves what it cannot delete;
    Python goes through that again, and deletes or reports it.
    """
    gone: list[bool] | None = None
    if native.module is not None:
        with suppress(StoppedError):
            gone = native.module.delete(parent, tuple((os.fsencode(name), False) for name in names), threads, stop_when(stopping))
    left = [not is_gone for is_gone in gone] if gone is not None else [True] * len(names)
    return [delete_tree(parent, name, f"{shown}/{name}", stopping) if is_left else [] for name, is_left in zip(names, left, strict=True)]


def delete_tree(parent: int, name: str, shown: str, stopping: Callable[[], bool]) -> list[Failure]:
    """Delete the entry `name` of the open directory `parent`, and everything below it, in Python.

    An entry that cannot be deleted stays, with the directories above it, and is reported;
    everything else is deleted. Another filesystem is not entered. Once `stopping` returns true, the
    rest stays, which is no failure.
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
    with Descent(shown) as descent:
        return _Deletion(descent, parent, shown, status.st_dev, stopping).run(name)


def freed_bytes(before: Usage, left: Usage) -> int:
    """Return the apparent bytes that deleting a tree gave back; 0 if what is left is unknown."""
    if not left.complete or left.other_filesystems:
        return 0
    return max(before.freed_bytes - left.freed_bytes, 0)


@dataclass(slots=True)
class _Directory:
    """A directory whose deletion has begun.

    Attributes:
        name: its name in the directory above.
        above: None for the directory that holds the tree.
        round: how many times it is listed.
        blocked: whether something in it cannot be deleted, so that it stays.
    """

    name: str
    above: _Directory | None
    round: int = 1
    blocked: bool = False


class _Deletion:
    """The deletion of one tree.

    On entering a directory its files are deleted, on leaving it the directory itself.
    """

    def __init__(self, descent: Descent, parent: int, shown: str, device: int, stopping: Callable[[], bool]) -> None:
        self._descent = descent
        self._parent = parent
        self._shown = shown
        self._device = device
        self._stopping = stopping
        self._current = _Directory("", None)
        self._failures: list[Failure] = []
        self._unlisted = 0

    def run(self, name: str) -> list[Failure]:
        """Delete the tree as far as possible; return the first failures and a count."""
        try:
            self._enter(_Directory(name, self._current))
            while self._descent.depth and not self._stopping():
                if self._descent.here.pending:
                    self._enter(_Directory(self._descent.here.pending.pop(), self._current))
                else:
                    self._leave()
        except OSError as error:  # the directory above cannot be opened again, or this one was moved away
            self._fail("open", self._current, "..", error)
        if not self._unlisted:
            return self._failures
        last = self._failures[-1]
        return [*self._failures, Failure(last.operation, last.path, last.errno, f"and {self._unlisted} more failures in this tree")]

    def _enter(self, directory: _Directory) -> None:
        """Go into a subdirectory and delete its files."""
        try:
            status = self._open(directory.name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._fail("open", self._current, directory.name, error)
            return
        if status.st_dev != self._device:
            self._descent.leave()
            self._fail("open", self._current, directory.name, OSError(errno.EXDEV, os.strerror(errno.EXDEV)))
            return
        self._current = directory
        try:
            for names in self._descent.files(_CHUNK_MAX):
                self._delete_files(names)
                if self._stopping():
                    return
        except OSError as error:
            self._fail("list", directory, None, error)

    def _open(self, name: str) -> os.stat_result:
        """Enter a directory and return its status; make a read-only one writable for its owner."""
        try:
            status = self._descent.enter(name, self._descriptor())
        except PermissionError:
            _permit_all(name, self._descriptor())
            status = self._descent.enter(name, self._descriptor())
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with suppress(OSError):  # one of another account: the kernel decides
                os.fchmod(self._descent.descriptor, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
        return status

    def _delete_files(self, names: Sequence[str]) -> None:
        """Delete files of the current directory.

        One that became a directory meanwhile stays; the next round enters it.
        """
        for name in names:
            if self._stopping():
                return
            try:
                os.unlink(name, dir_fd=self._descent.descriptor)
            except (FileNotFoundError, IsADirectoryError):
                continue
            except OSError as error:
                self._fail("delete", self._current, name, error)

    def _leave(self) -> None:
        """Go back to the directory above and remove the one that was left.

        Enter it again if it is not empty.
        """
        left, above = self._current, self._current.above
        if above is None:
            raise AssertionError("a directory that was entered has one above it")
        self._descent.leave()
        self._current = above
        if left.blocked:
            above.blocked = True
            return
        try:
            os.rmdir(left.name, dir_fd=self._descriptor())
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and left.round < _ROUNDS_MAX:
                self._enter(_Directory(left.name, above, left.round + 1))
            else:
                self._fail("delete", above, left.name, error)

    def _descriptor(self) -> int:
        return self._descent.descriptor if self._descent.depth else self._parent

    def _fail(self, operation: Operation, directory: _Directory, name: str | None, error: OSError) -> None:
        """Record a failure at a directory or at its entry `name`; the directory stays."""
        directory.blocked = True
        if len(self._failures) >= _LISTED_MAX:
            self._unlisted += 1
            return
        names = [] if name is None else [name]
        above: _Directory | None = directory
        while above is not None and above.above is not None:
            names.append(above.name)
            above = above.above
        self._failures.append(Failure.of(operation, "/".join([self._shown, *reversed(names[:-1])]), error))


def _permit_all(name: str, parent: int) -> None:
    """Give its owner all permissions of a directory that cannot be opened."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # fchmod(2) refuses such a descriptor.
        os.chmod(f"/proc/self/fd/{descriptor}", stat.S_IMODE(os.fstat(descriptor).st_mode) | stat.S_IRWXU)
    finally:
        os.close(descriptor)
