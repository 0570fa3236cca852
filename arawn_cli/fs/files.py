"""Read small files without waiting, and write a file in one step.

Readers of a file that is written see the old content or the new one, never a part.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from arawn_cli.errors import ConfigurationError, StoppedError
from arawn_cli.fs.openat import opened_directory
from arawn_cli.fs.permissions import Account, way_to
from arawn_cli.names import escape
from arawn_cli.units import size

_READABLE = 0o644
_STANDARD_INPUT = 0
_BLOCK = 1 << 20
_WAIT_SECS = 0.2
_NO_DIRECTORY = -1  # for a path that begins with a slash

# The contents that `keep_content` read and the files that `open_output` opened, for this process
# after it has become another account.
_contents: dict[Path | None, tuple[os.stat_result, bytes] | OSError] = {}
_outputs: dict[Path, int] = {}


def read_small_file(path: Path, most: int, check: Callable[[os.stat_result], None] = lambda _status: None) -> bytes:
    """Return the content of a regular file of at most `most` bytes, without waiting for it.

    `check` gets the status of the open file, and may raise.

    Raises:
        OSError: EINVAL for a special file, EFBIG for a larger one, else as open(2) and read(2).
    """
    kept = _contents.get(path)
    if isinstance(kept, OSError):
        raise kept
    if kept is None:
        return _read_regular(path, most, check)[1]
    status, content = kept
    check(status)
    return content


def keep_content(path: Path, most: int) -> None:
    """Read a file as root for later calls of `read_small_file` by another account.

    If it cannot be read, or belongs to another account by now, those calls fail.
    """

    def check(status: os.stat_result) -> None:
        if status.st_uid not in (0, Account.current().unmapped):
            raise PermissionError(errno.EPERM, "another account has replaced it")

    try:
        _contents[path] = _read_regular(path, most, check)
    except OSError as error:
        _contents[path] = error


def forget_content(path: Path | None) -> None:
    """Let later calls of `read_small_file` read a file again."""
    _contents.pop(path, None)


def is_kept(path: Path) -> bool:
    """Whether `keep_content` has read a file."""
    return isinstance(_contents.get(path), tuple)


def _read_regular(path: Path, most: int, check: Callable[[os.stat_result], None]) -> tuple[os.stat_result, bytes]:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device can have effects
        raise OSError(errno.EINVAL, "not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        check(status)
        return status, _read_all(descriptor, most)
    finally:
        os.close(descriptor)


def read_standard_input(most: int, stopping: Callable[[], bool]) -> bytes:
    """Return all of standard input, at most `most` bytes, and wait for its end.

    Raises:
        OSError: as `read_small_file`.
        StoppedError: `stopping` returned that a signal asked the run to end.
    """

    def wait() -> None:
        while not select.select([_STANDARD_INPUT], [], [], _WAIT_SECS)[0]:
            if stopping():
                raise StoppedError

    return _read_all(_STANDARD_INPUT, most, wait)


def _read_all(descriptor: int, most: int, wait: Callable[[], None] = lambda: None) -> bytes:
    blocks: list[bytes] = []
    length = 0
    while length <= most:
        wait()
        block = os.read(descriptor, min(_BLOCK, most + 1 - length))
        if not block:
            return b"".join(blocks)
        blocks.append(block)
        length += len(block)
    raise OSError(errno.EFBIG, f"larger than {size(most)}")


def open_output(path: Path, place: Path, mode: int) -> None:
    """Open a file that an `AtomicFile` of this path will write, maybe as another account.

    `place` is the path without links on the way: none is followed.

    Raises:
        OSError: EINVAL for a link, a special file or one with several names, else as open(2).
    """
    _check_replaceable(place)
    with _opened_way(place.parent) as directory:
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(place.name, flags, mode, dir_fd=directory)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file with one name")
    _outputs[path] = descriptor


def _opened_way(path: Path) -> AbstractContextManager[int]:
    """Open a directory by an absolute path, and follow no link on the way."""
    return opened_directory(_NO_DIRECTORY, *path.parts)


@contextmanager
def _opened_folder(path: Path) -> Iterator[int]:
    """Open a directory to write a file in it. Root follows no link of another account."""
    if os.geteuid() == 0:
        way = way_to(path)
        if way.has_links:
            raise PermissionError(errno.EPERM, f"a link of another account is on the way to {escape(str(path))}", str(path))
        with _opened_way(way.path) as directory:
            yield directory
        return
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield directory
    finally:
        os.close(directory)


class AtomicFile:
    """A file that will be written in one step. A link, a device or a pipe is refused, not followed.

    A file that `open_output` opened is written in place, because this account cannot replace it.
    """

    def __init__(self, path: Path, what: str, mode: int = _READABLE) -> None:
        """Check that the file can be written, and change nothing.

        Args:
            path: the file; it need not exist.
            what: the content, for error messages.
            mode: the permissions of the file.

        Raises:
            ConfigurationError: it cannot be written.
        """
        self._path = path
        self._what = what
        self._mode = mode
        self._descriptor = _outputs.pop(path, None)
        if self._descriptor is not None:
            return
        try:
            _check_replaceable(path)
            with _opened_folder(path.parent):
                if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
                    raise PermissionError(errno.EACCES, f"no permission to create files in {path.parent}")
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, text: str) -> None:
        """Write the file as UTF-8.

        Raises:
            ConfigurationError: it cannot be written; the old content stays.
        """
        try:
            if self._descriptor is None:
                write_atomic(self._path, text, self._mode)
                return
            with open(self._descriptor, "wb") as file:
                file.truncate()
                file.write(text.encode())
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"cannot write {self._what} {self._path}: {error.strerror}")


def _check_replaceable(path: Path) -> None:
    """Check that a path is free, or a regular file with one name, which a new file may replace."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISLNK(status.st_mode):
        raise OSError(
            errno.EINVAL,
            f"it is a link to {escape(os.readlink(path))}, and links are not followed: name the file itself, or - for standard output",
        )
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file: name another one, or - for standard output")
    if status.st_nlink > 1:
        raise OSError(errno.EINVAL, "the file has several names: remove it first")


def write_atomic(path: Path, text: str, mode: int = _READABLE) -> None:
    """Replace a file once the new content is on the disk. Surrogate escapes are written as bytes.

    Raises:
        OSError: that failed, or something else than a regular file with one name is there; the old
            content stays.
    """
    _check_replaceable(path)
    try:
        with _opened_folder(path.parent) as directory:
            _replace(directory, path.name, text, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(directory: int, target: str, text: str, mode: int) -> None:
    descriptor, name = _temporary_file(directory, target)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            os.replace(name, target, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:  # also Ctrl-C: only the next write would remove the file
        with suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    _complete(directory, target)


def _complete(directory: int, target: str) -> None:
    """Sync a directory to the disk, and remove leftovers of killed writers of the file."""
    with suppress(OSError):  # the directory may be writable but not readable; the file is complete
        readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(readable)
            _remove_leftovers(readable, target)
        finally:
            os.close(readable)


def _temporary_file(directory: int, target: str) -> tuple[int, str]:
    """Return a new file beside a file, with its name; its writer holds a lock on it."""
    while True:
        name = f".{target[:100]}.{os.urandom(4).hex()}"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, name
        os.close(descriptor)  # another writer took it for a leftover before it was locked


def _remove_leftovers(directory: int, target: str) -> None:
    leftover = re.compile(re.escape(f".{target[:100]}.") + "[a-z0-9_]{8}")
    for name in filter(leftover.fullmatch, os.listdir(directory)):
        with suppress(OSError):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(descriptor)


def remove_atomic(path: Path) -> bool:
    """Remove a file of `write_atomic`, and leftovers of killed writers beside it.

    Return whether it was there.

    Raises:
        OSError: it cannot be removed.
    """
    with _opened_folder(path.parent) as directory:
        try:
            os.unlink(path.name, dir_fd=directory)
        except FileNotFoundError:
            return False
        finally:
            _complete(directory, path.name)
    return True
