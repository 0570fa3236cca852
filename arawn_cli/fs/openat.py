"""Open files relative to directory descriptors, never through a link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from os import _ScandirIterator as ScandirIterator

Identity = tuple[int, int]
"""Device and inode number: what stays the same when a name is moved."""


def identity_of(status: os.stat_result) -> Identity:
    """Device and inode number of a file."""
    return status.st_dev, status.st_ino


class FileKind(StrEnum):
    """What a directory entry is, links not followed."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory; `name` may hold surrogate escapes."""

    name: str
    kind: FileKind


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def open_directory(name: str, parent: int) -> int:
    """A descriptor of the directory `name` in `parent`.

    Raises:
        OSError: ENOTDIR or ELOOP where the name is a link or no directory, or what open(2) says.
    """
    return os.open(name, _DIRECTORY, dir_fd=parent)


@contextmanager
def opened_directory(parent: int, *names: str) -> Iterator[int]:
    """A descriptor of the directory reached from `parent` name by name, closed at the end.

    Raises:
        OSError: as `open_directory`, at the first name that fails.
    """
    descriptor = open_directory(names[0], parent)
    try:
        for name in names[1:]:
            inner = open_directory(name, descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_file(name: str, parent: int) -> Iterator[int]:
    """A descriptor for reading the regular file `name` in `parent`.

    Raises:
        OSError: ELOOP for a link, EINVAL for anything else that is no regular file, or what open(2) says.
    """
    descriptor = os.open(name, _FILE, dir_fd=parent)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        yield descriptor
    finally:
        os.close(descriptor)


def entries(directory: int) -> list[Entry]:
    """The entries of an open directory, sorted by name."""
    with os.scandir(directory) as listing:
        return sorted((Entry(entry.name, _kind(entry)) for entry in listing), key=lambda entry: entry.name)


def identity_at(name: str, parent: int) -> Identity:
    """Identity of the entry `name`, a link not followed."""
    return identity_of(os.stat(name, dir_fd=parent, follow_symlinks=False))


def is_same_directory(expected: Identity, parent: int, names: Sequence[str]) -> bool:
    """Whether the directory reached from `parent` name by name, through no link, is still the expected one."""
    try:
        with opened_directory(parent, *names) as descriptor:
            return identity_of(os.fstat(descriptor)) == expected
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _kind(entry: os.DirEntry[str]) -> FileKind:
    if entry.is_symlink():
        return FileKind.LINK
    if entry.is_dir(follow_symlinks=False):
        return FileKind.DIRECTORY
    return FileKind.FILE if entry.is_file(follow_symlinks=False) else FileKind.OTHER


def require_writable(name: str, parent: int) -> None:
    """Looks whether this process may make, rename and remove what is in a directory.

    Raises:
        OSError: EROFS or EACCES, as the kernel would answer.
    """
    if os.access(name, os.W_OK | os.X_OK, dir_fd=parent, effective_ids=True):
        return
    code = errno.EROFS if os.fstatvfs(parent).f_flag & os.ST_RDONLY else errno.EACCES
    raise OSError(code, os.strerror(code))


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
