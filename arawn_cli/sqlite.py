"""Read SQLite databases without changing them or leaving files beside them.

Even a reader of a database in WAL mode writes: it creates or locks the `-shm` file. So how the file
is opened depends on what is beside it (sqlite.org/wal.html, sqlite.org/uri.html). One change
remains: run by root, SQLite gives `-wal` and `-shm` the owner of the database.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

Signature = tuple[tuple[int, int, int] | None, ...]

_BUSY_SECS = 5.0
_TRIES = 50
_PAUSE_SECS = 0.01
_WAL_FORMAT = 2  # bytes 18 and 19 of the header (sqlite.org/fileformat.html)


class DatabaseUnreadableError(Exception):
    """The database exists and cannot be read. The text gives the reason."""


def signature(path: Path) -> Signature:
    """Return values that change with the database: inode, size and mtime of file and log.

    `path` must have its links resolved, since SQLite keeps the log beside the file itself.
    """
    return tuple(_stamp(f"{path}{suffix}") for suffix in ("", "-wal"))


def query(path: Path, statement: str, parameters: tuple[str | int, ...], *, text: type[bytes | str] = bytes) -> list[tuple[object, ...]]:
    """Return the rows of a query.

    If the database changes meanwhile, try again after a pause, for half a second in all.

    Text is returned as bytes, since that of another program may not be UTF-8. `text=str` is for our
    own file.

    Raises:
        DatabaseUnreadableError: the file is not a database, lacks the table, cannot be opened, or
            does not stop changing.

    """
    for _ in range(_TRIES):
        before = signature(path)
        mode = _mode(path)
        try:
            rows = _rows(path, mode, statement, parameters, text)
            if "immutable" not in mode or signature(path) == before:
                return rows
        except DatabaseUnreadableError:
            if signature(path) == before:
                raise
        time.sleep(_PAUSE_SECS)
    raise DatabaseUnreadableError(f"{path} changes faster than it can be read")


def _rows(path: Path, mode: str, statement: str, parameters: tuple[str | int, ...], text: type[bytes | str]) -> list[tuple[object, ...]]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=_BUSY_SECS)) as connection:
            connection.text_factory = text
            return connection.execute(statement, parameters).fetchall()
    except sqlite3.Error as error:
        hint = ""
        if "readonly_shm" in mode and _stamp(f"{path}-shm") is None:
            hint = f"; its log {path.name}-wal has no {path.name}-shm: start Arawn once, which merges the log"
        raise DatabaseUnreadableError(f"{path}: {error}{hint}") from error


def _mode(path: Path) -> str:
    """Return the URI parameters that open the database without writing anything.

    Without a log the main file is complete, and `immutable` needs no `-shm`. With a log, its
    existing `-shm` is used read-only.
    """
    try:
        header = _header(path)
    except OSError as error:
        raise DatabaseUnreadableError(f"{path}: {error.strerror}") from error
    if header[18:20] != bytes((_WAL_FORMAT, _WAL_FORMAT)):
        return "mode=ro"
    log = _stamp(f"{path}-wal")
    if log is None or log[1] == 0:
        return "mode=ro&immutable=1"
    return "mode=ro&readonly_shm=1"


def _header(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return os.read(descriptor, 20)
    finally:
        os.close(descriptor)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
