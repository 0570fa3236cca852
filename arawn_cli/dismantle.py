"""Taking a tree apart through directory descriptors: any depth, any breadth, no link followed, nothing forced."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from arawn_cli.crowd import Crowd, unlink_files
from arawn_cli.descent import Descent
from arawn_cli.model import Failure, Usage
from arawn_cli.unlinking import BATCH, unlink

# A directory that is still not empty after this many rounds has a writer in it; the next run tries again.
_ROUNDS = 8
_LISTED = 64


def take_apart(parent: int, name: str, shown: str, stopping: Callable[[], bool], crowd: Crowd | None = None) -> list[Failure]:
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
