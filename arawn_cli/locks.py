"""BSD locks: an open file or directory is the lock, and closing it gives the lock back."""

from __future__ import annotations

import errno
import fcntl


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Takes the BSD lock of an open file (flock(2)), which its closing gives back; false where another holds it.

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
    """Gives back a lock that `try_lock` took."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
