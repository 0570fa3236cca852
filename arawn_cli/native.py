"""The native module, where it was built; each of its functions has a twin in Python with the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

_Numbers = tuple[int, int, int, int, int, tuple[int, int] | None]
_Links = list[tuple[int, int, int, int, int, int]]
Measured = tuple[_Numbers, _Links, list[tuple[str, bytes, int]], list[bytes]]
"""What `_usage.c` tells of a subtree: apparent and allocated bytes, files and directories, without files of several names; the size of
the largest file, with them; the newest mtime in seconds and nanoseconds; then (device, inode, apparent, allocated, met, links) for each
file of several names, perhaps in parts to be added up; (operation, path, errno) for each failure; and the paths of other filesystems.
Paths are below the subtree."""


class Native(Protocol):
    """What the native module does."""

    def measure(self, start: int, subtrees: tuple[tuple[bytes, bool], ...], threads: int, tick: Callable[[int], None], /) -> list[Measured]:
        """See `measure_all` of `usage`; `tick` gets how many subtrees were finished since its last call, and ends the walk by raising."""

    def unlink(self, directory: int, names: bytes, /) -> tuple[int, list[tuple[int, int]]]:
        """See `unlink` of `unlinking`; each name has a NUL behind it.

        Tells how many were tried in a twentieth of a second, and the place and errno of each that stays.
        """


def load() -> Native | None:
    """The module, or None where none was built for this version."""
    try:
        from arawn_cli import _usage
    except ImportError:
        return None
    return _usage if hasattr(_usage, "unlink") else None  # one that was built for an earlier version, and not since


module = load()
"""What measures and unlinks natively, or None where it was not built."""
