"""Read SQLite databases of other programs without writing to them."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

Signature = tuple[tuple[int, int, int] | None, ...]


_BUSY_SECONDS = 5.0


_TRIES = 50


_NAP_SECONDS = 0.002


_WAL_FORMAT = 2  # bytes 18 and 19 of the header (sqlite.org/fileformat.html)


class DatabaseUnreadableError(Exception):
    """The database is there and cannot be read; its text says why."""


def signature(path: Path) -> Signature:
    """What changes whenever the database does: inode, size and mtime of the main file and of its write-ahead log.

    `path` has no link in it: SQLite keeps the log beside the file itself.
    """
    return tuple(_stamp(f"{path}{suffix}") for suffix in ("", "-wal"))


def query(path: Path, statement: str, parameters: tuple[str | int, ...], *, text: type[bytes | str] = bytes) -> list[tuple[object, ...]]:
    """What a statement answers on any SQLite database; nothing is written to it.

    Text comes as bytes, because another program's may be no UTF-8; `text=str` is for a file of our own.

    Raises:
        DatabaseUnreadableError: the file is no database, lacks the table, or cannot be opened.
    """
    for _ in range(_TRIES):
        before = signature(path)
        mode = _mode(path)
        try:
            rows = _rows(path, mode, statement, parameters, text)
        except DatabaseUnreadableError:
            if signature(path) == before:
                raise
            continue
        if "immutable" not in mode or signature(path) == before:
            return rows
        time.sleep(_NAP_SECONDS)
    raise DatabaseUnreadableError(f"{path} changes faster than it can be read")


def _rows(path: Path, mode: str, statement: str, parameters: tuple[str | int, ...], text: type[bytes | str]) -> list[tuple[object, ...]]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=_BUSY_SECONDS)) as connection:
            connection.text_factory = text
            return connection.execute(statement, parameters).fetchall()
    except sqlite3.Error as error:
        hint = ""
        if "readonly_shm" in mode and _stamp(f"{path}-shm") is None:
            hint = f"; its log {path.name}-wal has no {path.name}-shm beside it: start Arawn once, which takes the log in"
        raise DatabaseUnreadableError(f"{path}: {error}{hint}") from error


def _mode(path: Path) -> str:
    """How to open the database without writing anything.

    With no log there is nothing to share: the main file alone is whole, and `immutable` needs no `-shm`.
    With a log, its existing `-shm` is used read-only.
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
