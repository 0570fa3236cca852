"""Whether the kernel's clock is kept in step with the world's, by whatever program does that."""

from __future__ import annotations

import ctypes
import os

# Past this, adjtimex(2) counts a clock as not synchronised, and so does systemd.
_LARGEST_ERROR_MICROSECONDS = 16_000_000


class _Timex(ctypes.Structure):
    """The start of `struct timex` of adjtimex(2), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("rest", ctypes.c_byte * 256),
    )


def is_synchronised() -> bool:
    """Whether the clock's largest error is a known, small one; the clock is only read.

    Raises:
        OSError: the kernel does not say, as in some containers.
    """
    library = ctypes.CDLL(None, use_errno=True)
    state = _Timex()
    if library.adjtimex(ctypes.byref(state)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return bool(state.maximum_error < _LARGEST_ERROR_MICROSECONDS)
