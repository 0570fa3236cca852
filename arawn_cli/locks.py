"""Lock a root against other runs of a job, and take BSD locks (flock(2)).

Closing the descriptor releases a lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from arawn_cli.errors import LockedError, LongLockedError
from arawn_cli.names import escape
from arawn_cli.timestamps import DAY, minute


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


def make_private_directory(directory: Path) -> None:
    """Create the state directory, or check an existing one.

    Raises:
        OSError: that failed, or another account can write to it.
    """
    with suppress(FileExistsError):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    check_private_directory(directory)


def check_private_directory(directory: Path) -> None:
    """Refuse a directory in which others could place events to be sent, or hold a lock.

    Raises:
        OSError: EPERM if another account can write to it, ENOTDIR if it is not a directory.
    """
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a directory")
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "the directory belongs to another account")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, f"the directory is writable by others: run chmod go-w {directory}")


def lock_file(directory: Path, job: str, root: Path) -> Path:
    """Return the file in the state directory whose lock a job holds while it runs on a root."""
    status = root.stat()
    return directory / f"{job}.{status.st_dev:x}-{status.st_ino:x}.lock"


@contextmanager
def run_lock(path: Path, busy: str, now: int, *, hold: bool) -> Iterator[None]:
    """Hold a lock file in the state directory; without `hold`, test it and write nothing.

    No other account can hold it. Its mtime is the time since which it has refused runs, or 0.

    Args:
        path: the lock file.
        busy: what a run that holds it is doing, for the error.
        now: the time in nanoseconds.
        hold: false in a dry run.

    Raises:
        LockedError: another run holds it.
        LongLockedError: it has refused runs for more than a day.
        OSError: it cannot be taken.
    """
    descriptor = _open(path, hold=hold)
    if descriptor is None:
        yield
        return
    try:
        if not try_lock(descriptor, shared=not hold):
            raise _refusal(descriptor, busy, now, is_recorded=hold)
        if not hold:
            unlock(descriptor)
        else:
            os.utime(descriptor, ns=(0, 0))
        yield
    finally:
        os.close(descriptor)


def _open(path: Path, *, hold: bool) -> int | None:
    """Open or create a lock file; None if a run that only tests it cannot."""
    common = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not hold:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            return os.open(path, os.O_RDONLY | common)
        return None
    make_private_directory(path.parent)
    return os.open(path, os.O_RDWR | os.O_CREAT | common, 0o600)


def _refusal(descriptor: int, busy: str, now: int, *, is_recorded: bool) -> LockedError | LongLockedError:
    since = os.fstat(descriptor).st_mtime_ns
    if not 0 < since <= now:
        since = now
        if is_recorded:
            os.utime(descriptor, ns=(now, now))
    text = f"{busy}{holder_text(descriptor)}"
    if now - since > DAY:
        return LongLockedError(f"{text}, and has refused runs since {minute(since)}: nothing done; end that process if it hangs")
    return LockedError(f"{text}: nothing done; run it again later")


def holder_text(descriptor: int) -> str:
    """Return the holder of an open file's lock in parentheses; empty if not visible."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            match line.split():
                case [_, "FLOCK", _, _, process, found, *_] if found == place and int(process) > 0:
                    name = ""
                    with suppress(OSError):
                        name = f" {escape(Path(f'/proc/{process}/comm').read_text().strip())}"
                    return f" (process {process}{name})"
    return ""
