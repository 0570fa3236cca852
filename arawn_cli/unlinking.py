"""Unlinking files of one directory: natively, while other threads run, or in Python, with the same answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from arawn_cli import native

BATCH = 64
"""Names that are worth a call, or another thread."""


def unlink(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
    """Unlinks names of an open directory; tells the name and errno of each that cannot be, EISDIR for a directory.

    One that is gone already is no failure. Once `stopping` says so, the rest stays and is not told of, within a twentieth of a second
    and one call of the kernel.

    Raises:
        ValueError: a name is more than that: it has a slash or a NUL in it.
    """
    given = [os.fsencode(name) for name in names]
    if any(b"/" in name or b"\0" in name for name in given):
        raise ValueError("a name has no slash and no NUL in it")
    return _in_python(directory, names, stopping) if native.module is None else _natively(native.module, directory, names, given, stopping)


def _natively(
    module: native.Native, directory: int, names: Sequence[str], given: Sequence[bytes], stopping: Callable[[], bool]
) -> list[tuple[str, int]]:
    stuck: list[tuple[str, int]] = []
    done = 0
    while done < len(given) and not stopping():
        tried, found = module.unlink(directory, b"\0".join(given[done:]) + b"\0")
        stuck += [(names[done + place], number) for place, number in found]
        done += tried
    return stuck


def _in_python(directory: int, names: Sequence[str], stopping: Callable[[], bool]) -> list[tuple[str, int]]:
    stuck: list[tuple[str, int]] = []
    for name in names:
        if stopping():
            break
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            stuck.append((name, error.errno or errno.EIO))
    return stuck
