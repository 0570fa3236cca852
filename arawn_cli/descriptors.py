"""Opening and listing through directory descriptors, where no step follows a link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from arawn_cli.model import Entry, FileKind, Identity, identity_of

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


def stands_at(expected: Identity, parent: int, names: Sequence[str]) -> bool:
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
