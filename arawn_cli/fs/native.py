"""Load the extension module, which measures and deletes trees in C with several threads.

What it does is specified in Python, in `measure.py` and `delete.py`, which do the same without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

_Sums = tuple[int, int, int, int, int, tuple[int, int, bytes] | None, int]
_Links = list[tuple[int, int, int, int, int, int]]

NativeUsage = tuple[_Sums, _Links, list[tuple[str, bytes, int]]]
"""The usage of a subtree as `_measure.c` returns it.

- Apparent and allocated bytes, files and directories, all without files of several names; the size
  of the largest file, with them; the newest mtime as seconds and nanoseconds, and its path; the
  number of failures, listed or not.
- For each file with several names: device, inode, apparent and allocated bytes, names found, names.
- Kind, path below the subtree and a number: for each failure the operation and errno; for the rest
  `mounted`, `foreign`, `flagged` or `linked`, and the owner; `descriptor` if Python must measure
  it.
"""

Subtrees = tuple[tuple[bytes, bool], ...]
"""Of each its names, separated by NUL, and whether it is shallow."""


class Native(Protocol):
    """The functions of the module. They return None if no thread can be started.

    `advance` gets the number of subtrees that were finished since its last call, 20 times a second.
    An exception in it, or in a signal handler, stops the walk.
    """

    def measure(
        self, start: int, subtrees: Subtrees, threads: int, advance: Callable[[int], None], account: tuple[int, bool, int], /
    ) -> list[NativeUsage] | None:
        """Measure subtrees of an open directory; `account` has the fields of `Account`."""

    def delete(self, start: int, subtrees: Subtrees, threads: int, advance: Callable[[int], None], /) -> list[bool] | None:
        """Delete directories below an open one as far as possible; return which are gone."""


def load() -> Native | None:
    """Return the extension module, or None if it was not built for this version."""
    try:
        from arawn_cli.fs import _measure
    except ImportError:
        return None
    return cast("Native", _measure) if hasattr(_measure, "delete") else None


module = load()
"""The extension module, or None."""


def measuring_method() -> str:
    """Return how trees are measured, for people."""
    return "measures in Python: the native module was not built" if module is None else "measures natively, on every core"
