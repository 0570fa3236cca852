"""Unlinking the files of large trees by many threads: each call waits for the disk, where it gives blocks back at once."""

from __future__ import annotations

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

from arawn_cli.descent import Descent
from arawn_cli.unlinking import BATCH, unlink

log = logging.getLogger(__name__)

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

    Directories stay, and so does what fails: `take_apart`, which comes after it, removes the one and tells of the other.
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
