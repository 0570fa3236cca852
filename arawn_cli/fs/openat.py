"""Open files relative to directory descriptors, never through a symbolic link."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from arawn_cli.names import escape

if TYPE_CHECKING:
    from os import _ScandirIterator as ScandirIterator

Identity = tuple[int, int]
"""Device and inode number of a file. A rename does not change it."""

NO_IDENTITY: Identity = (-1, -1)
"""The identity of no file."""

Opened = TypeVar("Opened")

MAX_OPEN = 32
"""Directories that a `Descent` keeps open."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class FileKind(StrEnum):
    """The type of a directory entry."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    OTHER = "other"


class Entry(NamedTuple):
    """A directory entry; `name` may contain surrogate escapes."""

    name: str
    kind: FileKind


def identity_of(status: os.stat_result) -> Identity:
    """Return device and inode number of a file."""
    return status.st_dev, status.st_ino


def identity_at(name: str, parent: int) -> Identity:
    """Return device and inode number of the entry `name`.

    Raises:
        OSError: as stat(2).
    """
    return identity_of(os.stat(name, dir_fd=parent, follow_symlinks=False))


def exists(name: str, parent: int) -> bool:
    """Whether there is an entry `name`, perhaps a path, in an open directory; a link counts.

    Raises:
        OSError: as stat(2).
    """
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_link(name: str, parent: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except OSError:
        return False


class LinkError(NotADirectoryError):
    """A symbolic link has the name of a directory or file of Arawn's; links are not followed."""

    def __init__(self, name: str) -> None:
        """Describe the link `name`, and what to do instead."""
        super().__init__(errno.ELOOP, f"{escape(name)} is a link, and links are not followed: use a bind mount instead")


def open_directory(name: str, parent: int) -> int:
    """Return a descriptor of the directory `name` in the open directory `parent`.

    Raises:
        OSError: ENOTDIR or ELOOP for a link or a file, else as open(2).
    """
    return os.open(name, _DIRECTORY, dir_fd=parent)


@contextmanager
def opened_directory(parent: int, *names: str) -> Iterator[int]:
    """Open the directory with this path below `parent`, name by name, and close it at the end.

    Raises:
        LinkError: one of them is a link.
        OSError: as `open_directory`, for the first name that fails.
    """
    with ExitStack() as opened:
        for name in names:
            try:
                below = open_directory(name, parent)
            except NotADirectoryError:  # open(2) returns ENOTDIR for a link, too
                if _is_link(name, parent):
                    raise LinkError(name) from None
                raise
            opened.callback(os.close, below)
            parent = below
        yield parent


@contextmanager
def opened_file(name: str, parent: int, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Open the regular file `name` in `parent`, and close it at the end.

    Raises:
        LinkError: it is a link.
        OSError: EINVAL for a special file, else as open(2).
    """
    try:
        descriptor = os.open(name, _FILE | flags, dir_fd=parent)
    except OSError as error:
        raise (LinkError(name) if error.errno == errno.ELOOP else error) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def many_descriptors(most: int) -> Iterator[int]:
    """Raise the limit on open descriptors meanwhile to `most`, or as far as allowed; yield it.

    The usual limit of 1024 protects programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def entries(directory: int) -> list[Entry]:
    """Return the entries of an open directory, sorted by name.

    Raises:
        OSError: the directory cannot be listed.
    """
    with os.scandir(directory) as listing:
        return sorted((Entry(entry.name, _kind(entry)) for entry in listing), key=lambda entry: entry.name)


def _kind(entry: os.DirEntry[str]) -> FileKind:
    if entry.is_symlink():
        return FileKind.LINK
    if entry.is_dir(follow_symlinks=False):
        return FileKind.DIRECTORY
    return FileKind.FILE if entry.is_file(follow_symlinks=False) else FileKind.OTHER


def is_same_directory(expected: Identity, parent: int, names: Sequence[str]) -> bool:
    """Whether the path `names` below `parent` is still the expected directory.

    Raises:
        OSError: it cannot be opened for another reason than that it is gone or replaced.
    """
    try:
        with opened_directory(parent, *names) as descriptor:
            return identity_of(os.fstat(descriptor)) == expected
    except (FileNotFoundError, NotADirectoryError):
        return False


class MovedAwayError(OSError):
    """Somebody moved a directory while it was walked: its parent is another one now."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


class DirectoryLevel:
    """A directory between the top of a tree and the current directory of a walk.

    Attributes:
        descriptor: None while it is closed.
        pending: subdirectories still to be entered.
        sticky: for measuring, whether this account may remove only its own entries.
        round: for deleting, how many times it is listed.
        blocked: for deleting, whether something in it cannot be deleted, so that it stays.
    """

    def __init__(self, name: str, identity: Identity, descriptor: int) -> None:
        self.name = name
        self.identity = identity
        self.descriptor: int | None = descriptor
        self.pending: list[str] = []
        self.sticky = False
        self.round = 1
        self.blocked = False


class Descent:
    """A depth-first walk through directories, with at most MAX_OPEN of them open at any depth.

    The deepest ones are open. A closed one is opened again through `..`, and its identity proves
    that it is the same.
    """

    def __init__(self, parent: int, shown: str = "") -> None:
        """Start in the open directory `parent`, which holds the tree.

        `shown` is the path of the tree's top in messages.
        """
        self._parent = parent
        self._shown = shown
        self._levels: list[DirectoryLevel] = []
        self._closed = 0  # levels [0:_closed] are closed, all others are open

    def __enter__(self) -> Descent:
        return self

    def __exit__(self, *_: object) -> None:
        for level in self._levels:
            _close(level)
        self._levels.clear()

    @property
    def depth(self) -> int:
        """The number of directories from the top to the current one, 0 outside."""
        return len(self._levels)

    @property
    def here(self) -> DirectoryLevel:
        """The current directory, which is open."""
        return self._levels[-1]

    @property
    def descriptor(self) -> int:
        """The descriptor of the current directory, or of the one that holds the tree."""
        descriptor = self.here.descriptor if self._levels else self._parent
        if descriptor is None:
            raise AssertionError("the current directory of a walk is always open")
        return descriptor

    def path(self, name: str | None = None) -> str:
        """Return the path of the current directory, or of its entry `name`."""
        if not self._levels:
            return self._shown
        names = [level.name for level in self._levels[1:]]
        return "/".join([self._shown, *names, *([] if name is None else [name])])

    def beginning(self, name: str | None, most: int) -> bytes:
        """Return `most` bytes of the path below the top of the current directory or its entry."""
        names = [level.name for level in self._levels[1 : most // 2 + 2]]
        return os.fsencode("/".join([*names, *([] if name is None else [name])]))[:most]

    def enter(self, name: str) -> os.stat_result:
        """Make a subdirectory of the current directory the current one; return its status.

        Raises:
            OSError: as `open_directory`; the current directory stays the same.
        """
        descriptor = self._retry(lambda: open_directory(name, self.descriptor))
        try:
            status = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._levels.append(DirectoryLevel(name, identity_of(status), descriptor))
        if len(self._levels) - self._closed > MAX_OPEN:
            self._close_topmost()
        return status

    def leave(self) -> DirectoryLevel:
        """Make the parent the current directory; return the one that was left, closed.

        Raises:
            OSError: the parent cannot be opened again.
            MovedAwayError: the parent is another one now.
        """
        if len(self._levels) > 1 and self.depth - 1 == self._closed:
            self._reopen_parent(self.descriptor)
        left = self._levels.pop()
        _close(left)
        return left

    def scan(self) -> ScandirIterator[str]:
        """Return a listing of the current directory. The caller closes it.

        Raises:
            OSError: the directory cannot be listed.
        """
        return self._retry(lambda: os.scandir(self.descriptor))

    def _retry(self, opening: Callable[[], Opened]) -> Opened:
        """Open something; without a free descriptor close the directories above and retry."""
        try:
            return opening()
        except OSError as error:
            if error.errno != errno.EMFILE or self.depth - self._closed < 2:
                raise
        while self.depth - self._closed > 1:
            self._close_topmost()
        return opening()

    def _close_topmost(self) -> None:
        _close(self._levels[self._closed])
        self._closed += 1

    def _reopen_parent(self, descriptor: int) -> None:
        level = self._levels[self._closed - 1]
        try:
            parent = open_directory("..", descriptor)
        except FileNotFoundError as error:  # a directory that was moved out of a bind mount has no parent
            raise MovedAwayError from error
        if identity_of(os.fstat(parent)) != level.identity:
            os.close(parent)
            raise MovedAwayError
        level.descriptor = parent
        self._closed -= 1


def _close(level: DirectoryLevel) -> None:
    if level.descriptor is not None:
        os.close(level.descriptor)
        level.descriptor = None
