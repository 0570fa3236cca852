"""Unlinking files of one directory: natively, while other threads run, or in Python, with the same answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from arawn_cli import native

BATCH = 64
"""Names to unlink in one call: a signal waits for one call at most."""


def unlink(directory: int, names: Sequence[str]) -> list[tuple[str, int]]:
    """Unlinks names of an open directory; tells the name and errno of each that stays, EISDIR for a directory.

    One that is gone already is no failure.
    """
    if native.module is None:
        return [(name, number) for name in names if (number := _unlinked(directory, name))]
    return [
        (names[place], number) for place, number in native.module.unlink(directory, b"".join(os.fsencode(name) + b"\0" for name in names))
    ]


def _unlinked(directory: int, name: str) -> int:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return 0
    except OSError as error:
        return error.errno or errno.EIO
    return 0
