"""Take BSD locks (flock(2)) on open files and directories.

Closing the descriptor releases the lock.
"""

from __future__ import annotations

import errno
import fcntl


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Try to take the lock of an open file. Return False if another process holds it.

    Raises:
        OSError: locking fails for another reason.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


def unlock(descriptor: int) -> None:
    """Release a lock that `try_lock` took."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
