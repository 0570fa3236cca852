"""Delete directory trees, with several threads where a tree is large."""

from __future__ import annotations

import errno
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import BoundedSemaphore, Thread
from typing import TypeVar

from arawn_cli.errors import Failure
from arawn_cli.fs import measure
from arawn_cli.fs.measure import Usage
from arawn_cli.fs.openat import Descent

log = logging.getLogger(__name__)

BATCH = 64
"""Names that are worth a call, or another thread."""


def unlink(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
    """Unlinks names of an open directory; tells the name and errno of each that cannot be, EISDIR for a directory.

    One that is gone already is no failure. Once `stopping` says so, the rest stays and is not told of, within a twentieth of a second
    and one call of the kernel.

    Raises:
        ValueError: a name is more than that: it has a slash or a NUL in it.
    """
    given = [os.fsencode(name) for name in names]
    if any(b"/" in name or b"\0" in name for name in given):
        raise ValueError("a name has no slash and no NUL in it")
    return (
        _in_python(directory, names, stopping) if measure.module is None else _natively(measure.module, directory, names, given, stopping)
    )


def _natively(
    module: measure.Native, directory: int, names: Sequence[str], given: Sequence[bytes], stopping: Callable[[], bool]
) -> list[tuple[str, int]]:
    stuck: list[tuple[str, int]] = []
    done = 0
    while done < len(given) and not stopping():
        tried, found = module.unlink(directory, b"\0".join(given[done:]) + b"\0")
        stuck += [(names[done + place], number) for place, number in found]
        done += tried
    return stuck


def _in_python(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
    stuck: list[tuple[str, int]] = []
    for name in names:
        if stopping():
            break
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            stuck.append((name, error.errno or errno.EIO))
    return stuck


WORTH_A_CROWD = 2000
"""Files from which on a tree is worth more than the thread that takes it apart."""


_FEW = 8  # names that are unlinked sooner than they are handed over


_WAITING = 16  # batches of one tree that are handed over at a time; each holds a descriptor


Item = TypeVar("Item")


Answer = TypeVar("Answer")


class Crowd:
    """Threads that do what they are handed, as many as the machine gives of those that are wanted; ends with its context."""

    def __init__(self, threads: int) -> None:
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        with suppress(RuntimeError):  # a limit on tasks: those that are there do the work
            for _ in range(threads):
                thread = Thread(target=self._work, name="unlink")
                thread.start()
                self._threads.append(thread)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()

    def do(self, order: Callable[[], None]) -> None:
        """Has something done that raises nothing, soon, or at once where there is no thread."""
        if self._threads:
            self._orders.put(order)
        else:
            order()

    def map(self, work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[Answer]:
        """The answer for each item, in their order; worked out one by one in this thread where there is no other."""
        if not self._threads:
            yield from map(work, items)
            return
        futures: list[Future[Answer]] = [Future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            self.do(partial(_settle, future, work, item))
        for future in futures:
            yield future.result()

    def _work(self) -> None:
        # The thread that waits for this one alone handles a signal, and is not woken by one that is given to another.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        while (order := self._orders.get()) is not None:
            try:
                order()
            except Exception as error:  # without its threads a run would wait for ever for what they were handed
                log.warning("some files were not unlinked beforehand: %s: %s", type(error).__name__, error)


def _settle(future: Future[Answer], work: Callable[[Item], Answer], item: Item) -> None:
    try:
        future.set_result(work(item))
    except BaseException as error:  # it is raised where the answer is asked for
        future.set_exception(error)


def unlink_files(parent: int, name: str, shown: str, stopping: Callable[[], bool], crowd: Crowd) -> None:
    """Unlinks what is no directory below the directory `name` of the open directory `parent`, as far as that succeeds.

    Directories stay, and so does what fails: `delete_tree`, which comes after it, removes the one and tells of the other.
    Another filesystem is not entered, and no link is followed.
    """
    with suppress(OSError), Descent(shown) as descent, _Batches(crowd, stopping) as batches:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(top.st_mode):
            return
        _enter(descent, name, parent, top.st_dev, batches, stopping)
        while descent.depth and not stopping():
            pending = descent.here.pending
            if pending:
                _enter(descent, pending.pop(), descent.descriptor, top.st_dev, batches, stopping)
            else:
                descent.leave()


class _Batches:
    """The names of one tree on their way to the crowd, not too many at a time; at the end of its context all are done."""

    def __init__(self, crowd: Crowd, stopping: Callable[[], bool]) -> None:
        self._crowd = crowd
        self._stopping = stopping
        self._free = BoundedSemaphore(_WAITING)

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *_: object) -> None:
        for _batch in range(_WAITING):
            self._free.acquire()

    def take(self, directory: int, names: Sequence[str]) -> None:
        """Unlinks names of an open directory, here and now where they are few.

        Raises:
            OSError: there is no descriptor for another thread.
        """
        if len(names) < _FEW:
            unlink(directory, names, self._stopping)
            return
        descriptor = os.dup(directory)
        self._free.acquire()

        def order() -> None:
            try:
                unlink(descriptor, names, self._stopping)
            finally:
                self._free.release()
                os.close(descriptor)

        self._crowd.do(order)


def _enter(descent: Descent, name: str, parent: int, device: int, batches: _Batches, stopping: Callable[[], bool]) -> None:
    try:
        status = descent.enter(name, parent)
    except OSError:
        return
    if status.st_dev != device:
        descent.leave()
        return
    with suppress(OSError):
        for names in descent.files(BATCH):
            if stopping():
                return
            batches.take(descent.descriptor, names)


# A directory that is still not empty after this many rounds has a writer in it; the next run tries again.
_ROUNDS = 8


_LISTED = 64


def delete_tree(parent: int, name: str, shown: str, stopping: Callable[[], bool], crowd: Crowd | None = None) -> list[Failure]:
    """Removes the entry `name` of the open directory `parent`, and everything below it.

    What cannot be removed stays, with the directories above it, and is in the
    answer; everything else goes. Another filesystem is not entered. Once `stopping` says so,
    the file in hand is finished and the rest stays, which is no failure. A `crowd` unlinks many files at a time beforehand.
    """
    if crowd is not None:
        unlink_files(parent, name, shown, stopping, crowd)
    try:
        top = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(top.st_mode):
            os.unlink(name, dir_fd=parent)
            return []
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Failure.of("unlinkat", shown, error)]
    with Descent(shown) as descent:
        dismantling = _Dismantling(descent, parent, top.st_dev, stopping)
        dismantling.enter(name)
        try:
            while descent.depth and not stopping():
                dismantling.step()
        except OSError as error:
            dismantling.record("openat", descent.path(".."), error)
        return dismantling.failures


def freed_bytes(before: Usage, left: Usage) -> int:
    """What taking a tree apart gave back, by what it used and what is left of it: nothing, where nobody knows what is left."""
    if not left.complete or left.other_filesystems:
        return 0
    return max(before.freed_bytes - left.freed_bytes, 0)


class _Dismantling:
    """One tree on its way out. A directory with a failure inside is blocked: it and those above it stay."""

    def __init__(self, descent: Descent, parent: int, device: int, stopping: Callable[[], bool]) -> None:
        self._descent = descent
        self._parent = parent
        self._device = device
        self._stopping = stopping
        self._rounds: list[int] = []
        self._blocked: list[bool] = []
        self._failures: list[Failure] = []
        self._unlisted = 0

    @property
    def failures(self) -> list[Failure]:
        """What failed: each of the first failures, and how many there were beyond them."""
        if not self._unlisted:
            return self._failures
        last = self._failures[-1]
        return [*self._failures, Failure(last.operation, last.path, last.errno, f"and {self._unlisted} more failures in this tree")]

    def enter(self, name: str) -> None:
        try:
            status = self._descent.enter(name, self._above())
        except FileNotFoundError:
            return
        except OSError as error:
            self._fail("openat", name, error)
            return
        if status.st_dev != self._device:
            self._descent.leave()
            self._fail("openat", name, OSError(errno.EXDEV, os.strerror(errno.EXDEV)))
            return
        self._rounds.append(1)
        self._blocked.append(False)
        self._clear()

    def step(self) -> None:
        if self._descent.here.pending:
            self.enter(self._descent.here.pending.pop())
        elif self._blocked[-1]:
            self._leave()
            self._block()
        else:
            self._finish()

    def _finish(self) -> None:
        """Leaves an emptied directory and removes it; one that is not empty after all is cleared again."""
        rounds = self._rounds[-1]
        level = self._leave()
        try:
            os.rmdir(level, dir_fd=self._above())
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and rounds < _ROUNDS:
                self.enter(level)
                if self._rounds:
                    self._rounds[-1] = rounds + 1
                return
            self._fail("unlinkat", level, error)

    def _clear(self) -> None:
        """Unlinks everything in the directory that is no directory, and keeps the names of those."""
        try:
            for names in self._descent.files(BATCH):
                if self._stopping():
                    return
                self._unlink(names)
        except OSError as error:
            self._fail("getdents64", None, error)

    def _unlink(self, names: Sequence[str]) -> None:
        for name, number in unlink(self._descent.descriptor, names, self._stopping):
            if number == errno.EISDIR:
                self._descent.here.pending.append(name)
            else:
                self._fail("unlinkat", name, OSError(number, os.strerror(number)))

    def _above(self) -> int:
        return self._descent.descriptor if self._descent.depth else self._parent

    def _leave(self) -> str:
        name = self._descent.leave().name
        self._rounds.pop()
        self._blocked.pop()
        return name

    def _fail(self, operation: str, name: str | None, error: OSError) -> None:
        """A failure at the entry `name` of the directory where the walk stands, or at that directory itself."""
        shown = self._descent.path(name if self._descent.depth else None)
        self.record(operation, shown, error)
        self._block()

    def record(self, operation: str, shown: str, error: OSError) -> None:
        """Keeps a failure, as long as there are not many."""
        if len(self._failures) < _LISTED:
            self._failures.append(Failure.of(operation, shown, error))
        else:
            self._unlisted += 1

    def _block(self) -> None:
        if self._blocked:
            self._blocked[-1] = True
