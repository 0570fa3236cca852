"""Recognise directories that can be Arawn's root, before one of them is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from arawn_cli import timestamps
from arawn_cli.arawn.layout import MESSAGES, WORKSTREAMS
from arawn_cli.timestamps import latest

_TAIL_BYTES = 64 * 1024


def is_candidate(path: Path, databases: Sequence[Path]) -> bool:
    """Return whether a directory can be a root.

    It contains `workstreams/`, or is empty and has one of these databases (a new server). A
    directory that this account may not see counts, so that opening it fails.
    """
    if may_exist(path / WORKSTREAMS):
        return True
    try:
        with os.scandir(path) as listing:
            is_empty = next(listing, None) is None
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return is_empty and any(may_exist(database) for database in databases)


def newest_message(root: Path) -> int | None:
    """Return the time of the newest message below a root in nanoseconds, or None if there is none.

    Arawn 0.0 writes the time into each line. The lines of its main branch have none, so there it is
    the time of the file. A file or directory that cannot be read is left out.
    """
    return latest(*(_newest_in(path) for path in _message_files(root / WORKSTREAMS)))


def _message_files(workstreams: Path) -> Iterator[Path]:
    for directory in _directories(workstreams):
        yield directory / MESSAGES
        for inner in _directories(directory):
            yield inner / MESSAGES


def _directories(path: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(path) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def _newest_in(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as file:
        try:
            status = os.fstat(descriptor)
            file.seek(max(status.st_size - _TAIL_BYTES, 0))
            lines = file.read(_TAIL_BYTES).splitlines()
        except OSError:
            return None
    times = [_time_of(line) for line in lines]
    return latest(*times) or (status.st_mtime_ns if lines else None)


def _time_of(line: bytes) -> int | None:
    try:
        message = json.loads(line)
        return timestamps.parse(message["timestamp"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def may_exist(path: Path) -> bool:
    """Return whether a path exists. One that this account may not see counts."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
