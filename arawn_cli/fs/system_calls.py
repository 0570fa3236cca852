"""Call functions of the C library that Python does not have."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache

from arawn_cli.timestamps import SECOND

_AT_SYMLINK_NOFOLLOW, _AT_NO_AUTOMOUNT, _AT_EMPTY_PATH = 0x100, 0x800, 0x1000
_STATX_BYTES, _STATX_BTIME = 256, 0x800


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: object) -> int:
    """Return the result of a function that returns -1 for an error.

    Raises:
        OSError: as the function; ENOSYS if the C library does not have it, such as renameat2(2) in
            musl before 1.2.6.
    """
    found = getattr(_library(), function, None)
    result: int = -1 if found is None else found(*arguments)
    if result == -1:
        number = ctypes.get_errno() if found else errno.ENOSYS
        raise OSError(number, os.strerror(number))
    return result


def statx(directory: int, name: str, flags: int = 0, mask: int = 0) -> bytes:
    """Return the `struct statx` of an entry of an open directory, or of the opened file itself.

    Raises:
        OSError: as statx(2); ENOSYS if the C library does not have it.
    """
    status = ctypes.create_string_buffer(_STATX_BYTES)
    flags |= _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if name else _AT_EMPTY_PATH)
    call("statx", directory, os.fsencode(name), flags, mask, status)
    return status.raw


def birth_time(descriptor: int) -> int | None:
    """Return when an open file was created, in nanoseconds; None if the kernel cannot tell."""
    try:
        status = statx(descriptor, "", mask=_STATX_BTIME)
    except OSError:
        return None
    (mask,), (seconds, nanoseconds) = struct.unpack_from("=I", status), struct.unpack_from("=qI", status, 80)
    return seconds * SECOND + nanoseconds if mask & _STATX_BTIME else None
