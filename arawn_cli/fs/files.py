"""Write a file in one step: readers see the old content or the new one, never a part."""

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
    """A file to be written, with its links resolved. A pipe or a device is written in place."""

    def __init__(self, path: Path, what: str, mode: int = _READABLE) -> None:
        """Check that the file can be written, and change nothing.

        Args:
            path: the file; it need not exist.
            what: the content, for error messages.
            mode: the permissions of a regular file.

        Raises:
            ConfigurationError: it cannot be written.
        """
        self._path = path
        self._what = what
        self._mode = mode
        try:
            self._target = Path(os.path.realpath(path))
            if self._target.is_symlink():
                raise OSError(errno.ELOOP, "its links form a loop")
            self._in_place = self._target.exists() and not self._target.is_file()
            if self._target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            parent = self._target.parent
            if not self._in_place and not stat.S_ISDIR(parent.stat().st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not self._in_place and not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, f"no permission to create files in {parent}")
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, text: str) -> None:
        """Write the file as UTF-8.

        Raises:
            ConfigurationError: it cannot be written; the old content stays.
        """
        try:
            if self._in_place:
                self._target.write_text(text, "utf-8")
            else:
                write_atomic(self._target, text, self._mode)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(f"cannot write {self._what} {self._path}: {error.strerror}")


def write_atomic(path: Path, text: str, mode: int = _READABLE) -> None:
    """Replace a file once the new content is on the disk. Surrogate escapes are written as bytes.

    Raises:
        OSError: that failed; the old content stays.
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
    with suppress(OSError):  # the directory may be writable but not readable; the file is complete
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
