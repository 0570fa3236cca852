"""Who stands in a directory: mounts inside it, live processes, and holders of a lock."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator

import psutil


def mount_points() -> frozenset[str]:
    """Every mount point of this process's view, bind mounts on the same filesystem included."""
    return frozenset(partition.mountpoint for partition in psutil.disk_partitions(all=True))


def paths_in_use() -> frozenset[str]:
    """Working directories and open files of live processes, as far as they may be seen.

    An ordinary user sees only its own processes; Linux says nothing of the others.
    """
    return frozenset(_paths_of_processes())


def lies_inside(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory or something below it."""
    return path == directory or path.startswith(f"{directory}/")


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Takes the BSD lock of an open file (flock(2)), which its closing gives back; false where another holds it.

    Raises:
        OSError: locking fails for another reason.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def unlock(descriptor: int) -> None:
    """Gives back a lock that `try_lock` took."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _paths_of_processes() -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            yield process.cwd()
            yield from (file.path for file in process.open_files())
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or belongs to somebody else
