"""A way down into a tree and back up, through a bounded number of open directories.

Depth costs no recursion and no descriptors: beyond `MAX_OPEN` levels the
directories nearest the top are closed, and opened again through `..` on the way
back, where device and inode number prove that it is the same directory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from arawn_cli.descriptors import open_directory
from arawn_cli.model import Identity, identity_of

if TYPE_CHECKING:
    from os import _ScandirIterator as ScandirIterator  # what os.scandir answers has no public name

MAX_OPEN = 32

Opened = TypeVar("Opened")


class MovedAwayError(OSError):
    """A directory on the way back up is no longer where it was: somebody moves the tree while it is walked."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


@dataclass(slots=True)
class Level:
    """One directory on the way down.

    `descriptor` is None while closed; `pending` are the subdirectories still to enter.
    """

    name: str
    identity: Identity
    descriptor: int | None
    pending: list[str] = field(default_factory=list)


class Descent:
    """The open directories from a starting point down to where a walk stands."""

    def __init__(self, shown: str) -> None:
        """`shown` is the path of the starting point for people; nothing is opened by it."""
        self._shown = shown
        self._levels: list[Level] = []
        self._closed = 0  # levels [0:_closed] are closed, all others are open

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels[self._closed :]:
            if level.descriptor is not None:
                os.close(level.descriptor)
        self._levels.clear()

    @property
    def depth(self) -> int:
        """How many directories lie between the outside and here; 0 outside."""
        return len(self._levels)

    @property
    def here(self) -> Level:
        """The directory where the walk stands; its descriptor is open."""
        return self._levels[-1]

    @property
    def descriptor(self) -> int:
        """The open descriptor of `here`."""
        descriptor = self.here.descriptor
        if descriptor is None:
            raise AssertionError("the directory where a walk stands is always open")
        return descriptor

    def path(self, name: str | None = None) -> str:
        """Where the walk stands, or the entry `name` there, for people."""
        names = [level.name for level in self._levels[1:]]
        return "/".join([self._shown, *names, *([] if name is None else [name])])

    def enter(self, name: str, parent: int) -> os.stat_result:
        """Goes down into the directory `name` of the open directory `parent`.

        Raises:
            OSError: as `open_directory`; the walk stands where it stood.
        """
        descriptor = self._open(name, parent)
        try:
            status = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._levels.append(Level(name, identity_of(status), descriptor))
        if len(self._levels) - self._closed > MAX_OPEN:
            self._close_topmost()
        return status

    def leave(self) -> Level:
        """Goes up one level and returns the one left, whose descriptor is closed by then.

        Raises:
            OSError: the directory above cannot be opened again.
            MovedAwayError: it is not the one that was entered.
        """
        left = self._levels[-1]
        if len(self._levels) > 1 and self.depth - 1 == self._closed:
            self._reopen(self.descriptor)
        self._levels.pop()
        if left.descriptor is not None:
            os.close(left.descriptor)
            left.descriptor = None
        return left

    def scan(self) -> ScandirIterator[str]:
        """A listing of `here`, to be closed by the caller.

        Raises:
            OSError: it cannot be listed.
        """
        return self._with_descriptors(lambda: os.scandir(self.descriptor))

    def files(self, most: int) -> Iterator[list[str]]:
        """The names in `here` that are no directories, some of them, or none, for each so many entries; directories become pending.

        Raises:
            OSError: it cannot be listed, or not to its end; what was listed until then came first.
        """
        names: list[str] = []
        try:
            with self.scan() as listing:
                for number, entry in enumerate(listing, start=1):
                    (self.here.pending if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
                    if number % most == 0:
                        yield names
                        names = []
        except OSError:
            yield names
            raise
        yield names

    def _open(self, name: str, parent: int) -> int:
        return self._with_descriptors(lambda: open_directory(name, parent))

    def _with_descriptors(self, opening: Callable[[], Opened]) -> Opened:
        """Tries once more with the directories above closed, where the process has no descriptor left."""
        try:
            return opening()
        except OSError as error:
            if error.errno != errno.EMFILE or self.depth - self._closed < 2:
                raise
        while self.depth - self._closed > 1:
            self._close_topmost()
        return opening()

    def _close_topmost(self) -> None:
        level = self._levels[self._closed]
        if level.descriptor is not None:
            os.close(level.descriptor)
            level.descriptor = None
        self._closed += 1

    def _reopen(self, below: int) -> None:
        level = self._levels[self._closed - 1]
        try:
            descriptor = open_directory("..", below)
        except FileNotFoundError as error:  # it was moved out of a bind mount, and nothing is above it
            raise MovedAwayError from error
        if identity_of(os.fstat(descriptor)) != level.identity:
            os.close(descriptor)
            raise MovedAwayError
        level.descriptor = descriptor
        self._closed -= 1
