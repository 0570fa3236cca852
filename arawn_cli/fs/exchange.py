"""Exchange two files in one step, and copy the attributes of a directory: what replacing a directory in use needs."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

CANNOT_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK})
"""What `exchange` and link(2) fail with on a filesystem without exchange or hard links."""

_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _rename(source: str, source_directory: int, target: str, target_directory: int, flag: int) -> None:
    try:
        function = _library().renameat2
    except AttributeError:  # a C library without it, such as musl before 1.2.6
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if function(source_directory, os.fsencode(source), target_directory, os.fsencode(target), ctypes.c_uint(flag)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def exchange(first: str, first_directory: int, second: str, second_directory: int) -> None:
    """Exchange the entries of two open directories: at any time each name has one of the two files.

    Raises:
        OSError: as renameat2(2); one of CANNOT_EXCHANGE if the filesystem does not support it.
    """
    _rename(first, first_directory, second, second_directory, _EXCHANGE)


def rename_new(source: str, source_directory: int, target: str, target_directory: int) -> None:
    """Rename an entry unless the new name exists.

    Raises:
        OSError: EEXIST, else as renameat2(2).
    """
    _rename(source, source_directory, target, target_directory, _NOREPLACE)


def why_no_exchange(directory: int, places: Iterable[Path], *, hard_links: bool) -> OSError | None:
    """Return the error of an exchange on the filesystem of an open directory, or None if it works.

    Only a trial shows whether a filesystem can do it. It is made in a new directory in the first of
    `places` on this filesystem where this account can create one, and removed. With `hard_links`,
    try to make one, too. Without any such place, return None.
    """
    device = os.fstat(directory).st_dev
    for place in places:
        try:
            status = place.stat()
            if status.st_dev != device:
                continue
            trial = tempfile.mkdtemp(prefix=".arawn-cli-", dir=place)
        except OSError:
            continue
        try:
            return _try_exchange(Path(trial), hard_links=hard_links)
        finally:
            for name in ("a", "b"):
                with suppress(OSError):
                    os.rmdir(f"{trial}/{name}")
            for name in ("f", "g"):
                with suppress(OSError):
                    os.unlink(f"{trial}/{name}")
            os.rmdir(trial)
            with suppress(OSError):
                os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
    return None


def _try_exchange(trial: Path, *, hard_links: bool) -> OSError | None:
    try:
        (trial / "a").mkdir()
        (trial / "b").mkdir()
        exchange(str(trial / "a"), 0, str(trial / "b"), 0)
        if hard_links:
            (trial / "f").touch()
            os.link(trial / "f", trial / "g")
    except OSError as error:
        if error.errno in CANNOT_EXCHANGE:
            return error
    return None


def copy_attributes(source: int, target: int) -> None:
    """Give an open directory the owner, mode, ACLs and other extended attributes of another.

    Raises:
        OSError: EPERM if this account must not set one of them.
    """
    wanted = os.fstat(source)
    present = os.fstat(target)
    if (present.st_uid, present.st_gid) != (wanted.st_uid, wanted.st_gid):
        os.fchown(target, wanted.st_uid, wanted.st_gid)
    if os.fstat(target).st_mode != wanted.st_mode:
        os.fchmod(target, stat.S_IMODE(wanted.st_mode))
    attributes = _attributes(source)
    inherited = _attributes(target)
    for name in inherited.keys() - attributes.keys():
        os.removexattr(target, name)
    for name, value in attributes.items():
        if inherited.get(name) != value:
            os.setxattr(target, name, value)
    if os.fstat(target).st_mode != wanted.st_mode:  # the kernel drops S_ISGID for a group that is not this account's
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _attributes(descriptor: int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return {}
        raise
