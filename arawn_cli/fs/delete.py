"""Delete directory trees, with several threads where a tree is large."""

from __future__ import annotations

import errno
import os
import signal
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Barrier

from arawn_cli.errors import Failure, Operation
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import Descent

PARALLEL_MIN_FILES = 2000
"""Trees with fewer files are deleted by one thread: starting more costs more than it saves."""

_CHUNK_MAX = 256  # directory entries that are listed, and files that are deleted, as one task
_CHUNK_MIN = 32  # fewer files are deleted sooner than another thread takes the task
_CHUNKS_MAX = 16  # tasks of one tree that are queued or running; each holds a descriptor
_EMPTIED_MAX = 32  # subdirectories of one directory that wait for their last task before they are removed
_ROUNDS_MAX = 8  # a directory that is not empty after so many rounds has a writer; the next run tries again
_LISTED_MAX = 64  # failures of one tree that are reported one by one


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """Yield a pool of running threads; None for fewer than two, or if one cannot be started.

    All threads start here, because `submit` of a pool that cannot start a thread raises after it
    has queued the task (TasksMax= of systemd, RLIMIT_NPROC, pids.max of a container). The threads
    leave signals to the main thread.
    """
    if threads < 2:
        yield None
        return
    with ThreadPoolExecutor(threads, "delete", _block_signals) as pool:
        all_running = Barrier(threads + 1)
        try:
            for _ in range(threads):
                pool.submit(all_running.wait)  # no thread is idle before the last one runs, so each call starts one
        except RuntimeError:
            all_running.abort()
            yield None
            return
        all_running.wait()
        yield pool


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


def delete_tree(parent: int, name: str, shown: str, stopping: Callable[[], bool], pool: ThreadPoolExecutor | None = None) -> list[Failure]:
    """Delete the entry `name` of the open directory `parent`, and everything below it.

    An entry that cannot be deleted stays, with the directories above it, and is reported;
    everything else is deleted. Another filesystem is not entered. Once `stopping` returns true,
    each thread finishes its current file and the rest stays, which is no failure. With a `pool`,
    several threads delete files while this one goes through the directories; none of its tasks
    waits for another.
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
        return _Deletion(descent, parent, shown, status.st_dev, stopping, pool).run(name)


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
        tasks: how many tasks that delete files of it are not finished.
        blocked: whether something in it cannot be deleted, so that it stays.
        emptied: subdirectories that were left, to be removed once their tasks are finished.
        refilled: subdirectories that were not empty then, to be entered again.
    """

    name: str
    above: _Directory | None
    round: int = 1
    tasks: int = 0
    blocked: bool = False
    emptied: list[_Directory] = field(default_factory=list)
    refilled: list[_Directory] = field(default_factory=list)


_NotDeleted = list[tuple[str, OSError]]
"""The names of the files that could not be deleted, and why."""


class _Deletion:
    """The deletion of one tree in one traversal.

    On entering a directory, its files are handed to the pool; then its subdirectories are entered;
    then it is left. It is removed from the directory above it once its last file is deleted; the
    pool works on the next ones meanwhile.
    """

    def __init__(
        self, descent: Descent, parent: int, shown: str, device: int, stopping: Callable[[], bool], pool: ThreadPoolExecutor | None
    ) -> None:
        self._descent = descent
        self._parent = parent
        self._shown = shown
        self._device = device
        self._stopping = stopping
        self._pool = pool
        self._current = _Directory("", None)
        self._tasks: deque[tuple[_Directory, Future[_NotDeleted]]] = deque()  # oldest first
        self._failures: list[Failure] = []
        self._unlisted = 0

    def run(self, name: str) -> list[Failure]:
        """Delete the tree as far as possible; return the first failures and a count."""
        try:
            self._enter(_Directory(name, self._current))
            while not self._stopping() and self._step():
                pass
        except OSError as error:  # the directory above cannot be opened again, or this one was moved away
            self._fail("open", self._current, "..", error)
        finally:
            while self._tasks:
                self._finish_task()
        if not self._unlisted:
            return self._failures
        last = self._failures[-1]
        return [*self._failures, Failure(last.operation, last.path, last.errno, f"and {self._unlisted} more failures in this tree")]

    def _step(self) -> bool:
        """Do the next thing in the current directory; false once the whole tree is done."""
        current = self._current
        pending = self._descent.here.pending if self._descent.depth else []
        if len(current.emptied) >= _EMPTIED_MAX:
            self._remove_emptied()
        elif current.refilled:
            self._enter(current.refilled.pop())
        elif pending:
            self._enter(_Directory(pending.pop(), current))
        elif current.emptied:
            self._remove_emptied()
        elif current.above is not None:
            self._descent.leave()
            self._current = current.above
            self._current.emptied.append(current)
        else:
            return False
        return True

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
                if self._stopping():
                    return
                self._delete_files(names)
        except OSError as error:
            self._fail("list", directory, None, error)

    def _open(self, name: str) -> os.stat_result:
        """Enter a directory and return its status. If it is read-only, let its owner change and list it."""
        try:
            status = self._descent.enter(name, self._descriptor())
        except PermissionError:
            _permit_all(name, self._descriptor())
            status = self._descent.enter(name, self._descriptor())
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            with suppress(OSError):  # one of another account: the kernel decides
                os.fchmod(self._descent.descriptor, stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
        return status

    def _remove_emptied(self) -> None:
        """Remove the subdirectories that were left; enter those again that are not empty."""
        current = self._current
        emptied, current.emptied = current.emptied, []
        for directory in emptied:
            while directory.tasks:
                self._finish_task()
            if self._stopping():
                return
            if directory.blocked:
                current.blocked = True
                continue
            try:
                os.rmdir(directory.name, dir_fd=self._descriptor())
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == errno.ENOTEMPTY and directory.round < _ROUNDS_MAX:
                    current.refilled.append(_Directory(directory.name, current, directory.round + 1))
                else:
                    self._fail("delete", current, directory.name, error)

    def _delete_files(self, names: list[str]) -> None:
        """Delete files of the current directory, in the pool if a descriptor is free."""
        current = self._current
        descriptor = None
        if self._pool is not None and len(names) >= _CHUNK_MIN:
            with suppress(OSError):
                descriptor = os.dup(self._descriptor())
        if self._pool is None or descriptor is None:
            for name, error in _delete_files(self._descriptor(), names, self._stopping):
                self._fail("delete", current, name, error)
            return
        while len(self._tasks) >= _CHUNKS_MAX:
            self._finish_task()
        self._tasks.append((current, self._pool.submit(_delete_files_and_close, descriptor, names, self._stopping)))
        current.tasks += 1

    def _finish_task(self) -> None:
        """Wait for the oldest task."""
        directory, task = self._tasks.popleft()
        directory.tasks -= 1
        for name, error in task.result():
            self._fail("delete", directory, name, error)

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


def _delete_files_and_close(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> _NotDeleted:
    try:
        return _delete_files(directory, names, stopping)
    finally:
        os.close(directory)


def _delete_files(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> _NotDeleted:
    """Delete files. One that became a directory meanwhile stays; the next round enters it."""
    not_deleted: _NotDeleted = []
    for name in names:
        if stopping():
            break
        try:
            os.unlink(name, dir_fd=directory)
        except (FileNotFoundError, IsADirectoryError):
            continue
        except OSError as error:
            not_deleted.append((name, error))
    return not_deleted
