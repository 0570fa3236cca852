"""One disk check at a time, for a scheduler that starts the next one whether or not the last has ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arawn_cli.errors import LockedError
from arawn_cli.layout import opened_root
from arawn_cli.locks import try_lock

log = logging.getLogger(__name__)


@contextmanager
def only_check(path: Path) -> Iterator[None]:
    """The BSD lock of a root itself, which needs no room on a full disk, and which a cleanup does not take.

    A filesystem that has no such locks costs the lock, not the check.

    Raises:
        LockedError: another check that takes it is at work.
        ConfigurationError, RefusedError: the root is wrong or unsafe.
    """
    with opened_root(path) as root:
        descriptor = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _is_ours(descriptor):
            raise LockedError(f"another check is at work in {root.path}: nothing done; it can be run again later")
        yield
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        log.info("checks may overlap: the root cannot be locked: %s", error.strerror)
        return True
