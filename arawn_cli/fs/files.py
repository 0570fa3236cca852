"""Writing a file in one step: whoever reads it sees the old one or the whole new one."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from arawn_cli.errors import ConfigurationError

_READABLE = 0o644


class AtomicFile:
    """A file to be written, its links resolved. What is no regular file, a pipe or a device, is written to as it is."""

    def __init__(self, path: Path, what: str, mode: int = _READABLE) -> None:
        """`what` names the content in errors, `mode` is that of a regular file; nothing is changed yet.

        Raises:
            ConfigurationError: it shows already that it cannot be written there.
        """
        self._path = path
        self._what = what
        self._mode = mode
        try:
            self._target = Path(os.path.realpath(path))
            if self._target.is_symlink():
                raise OSError(errno.ELOOP, "its links form a loop")
            self._in_place = self._target.exists() and not self._target.is_file()
            self._look()
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, text: str) -> None:
        """Writes the file as UTF-8.

        Raises:
            ConfigurationError: it cannot be written there; what stood there stays.
        """
        try:
            if self._in_place:
                self._target.write_text(text, "utf-8")
            else:
                write_atomic(self._target, text, self._mode)
        except OSError as error:
            raise self._refusal(error) from error

    def _look(self) -> None:
        if self._target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if self._in_place:
            return
        parent = self._target.parent
        if not stat.S_ISDIR(parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, f"no files can be made in {parent}")

    def _refusal(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"cannot write {self._what} {self._path}: {error.strerror}")


def write_atomic(path: Path, text: str, mode: int = _READABLE) -> None:
    """Puts a file with a text in place of the one before, once all of it is on the disk; lone surrogates are bytes of names.

    Raises:
        OSError: that cannot be done; what stood there stays.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    with suppress(OSError):  # a directory that may be written and not read: the file is there, if the machine stays up a moment
        _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
