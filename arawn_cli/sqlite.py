"""Read SQLite databases without changing them, leaving files beside them, or waiting for long.

Even a reader of a database in WAL mode writes: it creates or locks the `-shm` file. So how the file
is opened depends on the files beside it (sqlite.org/wal.html, sqlite.org/uri.html). Run by root,
SQLite also gives `-wal` and `-shm` the owner of the database, which may be links to other files by
then. So root must act as the owner of the database before it calls this module.

The content may be hostile: a view or virtual table in place of a table, huge values and
endless queries end with an error (sqlite.org/security.html).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from arawn_cli.errors import StoppedError, never_stopping

Signature = tuple[tuple[int, int, int] | None, ...]
Row = tuple[object, ...]
Result = TypeVar("Result")

COMPANIONS = ("-wal", "-shm", "-journal")
"""The endings that SQLite appends to the name of a database for the files beside it."""

LONGEST_OWN_VALUE = 64 * 1024 * 1024
"""The longest text in our own file, in bytes."""

_QUERY_SECS = 20.0  # a million rows take two
_RETRY_SECS = 2.0
_PAUSE_SECS = 0.02
_PROGRESS_STEPS = 10_000  # of SQLite's virtual machine, about a millisecond
_LONGEST_VALUE = 1024 * 1024
_WAL_FORMAT = 2  # bytes 18 and 19 of the header (sqlite.org/fileformat.html)

_SETTINGS = ("query_only = ON", "trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0")
"""With `mmap_size`, a file that shrinks would end the process by SIGBUS."""


class DatabaseUnreadableError(Exception):
    """The database exists and cannot be read. The text gives the reason."""


class _LockedError(DatabaseUnreadableError):
    """Another process has locked it."""


def signature(path: Path) -> Signature:
    """Return values that change with the database: inode, size and mtime of file and log.

    `path` must have its links resolved, since SQLite keeps the log beside the file itself.
    """
    return tuple(_stamp(f"{path}{suffix}") for suffix in ("", "-wal"))


def query(
    path: Path,
    statement: str,
    parameters: tuple[str | int, ...],
    *,
    text: type[bytes | str] = bytes,
    stopping: Callable[[], bool] = never_stopping,
) -> list[Row]:
    """Return the rows of a query; see `read_database`."""
    return read_database(path, lambda connection: connection.execute(statement, parameters).fetchall(), text=text, stopping=stopping)


def read_database(
    path: Path,
    read: Callable[[sqlite3.Connection], Result],
    *,
    text: type[bytes | str] = bytes,
    tables: Collection[str] = (),
    stopping: Callable[[], bool] = never_stopping,
) -> Result:
    """Call `read` with a connection that changes nothing, and return its result.

    If the database changes meanwhile, or is locked, try again after a pause, and call `read` again.

    Args:
        path: the database, with links resolved.
        read: reads from the connection.
        text: the type of text in a row: bytes, since that of another program may not be UTF-8, or
            `str` for our own file.
        tables: names that must be tables: a view under the name of one could be endless.
        stopping: returns whether a signal asked the run to end.

    Raises:
        DatabaseUnreadableError: the file is not a database, lacks the table, cannot be opened, is
            locked, takes too long, or does not stop changing.
        StoppedError: a signal asked the run to end.
    """
    end = time.monotonic() + _QUERY_SECS
    last_try = time.monotonic() + _RETRY_SECS
    while True:
        before = signature(path)
        problem = DatabaseUnreadableError(f"{path}: it changes faster than it can be read")
        try:
            mode = _mode(path)
            with _connected(path, mode, text, end, stopping) as connection:
                _require_tables(connection, path, tables)
                result = read(connection)
            if "immutable" not in mode or signature(path) == before:
                return result
        except _LockedError as error:
            problem = error
        except DatabaseUnreadableError:
            if signature(path) == before:
                raise
        if stopping():
            raise StoppedError
        if time.monotonic() > last_try:
            raise problem
        time.sleep(_PAUSE_SECS)


@contextmanager
def _connected(path: Path, mode: str, text: type[bytes | str], end: float, stopping: Callable[[], bool]) -> Iterator[sqlite3.Connection]:
    """Connect to a database until `end`, and translate errors of SQLite, also of the block."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=0)) as connection:
            connection.text_factory = text
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE if text is bytes else LONGEST_OWN_VALUE)
            connection.set_progress_handler(lambda: stopping() or time.monotonic() > end, _PROGRESS_STEPS)
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}").close()
            yield connection
    except sqlite3.Error as error:
        raise _translated(error, path, mode, end, stopping) from error
    except UnicodeDecodeError as error:  # Python decodes the names and messages of SQLite
        raise DatabaseUnreadableError(f"{path}: a name in it is not UTF-8, so it is damaged") from error


def _translated(error: sqlite3.Error, path: Path, mode: str, end: float, stopping: Callable[[], bool]) -> BaseException:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_INTERRUPT:
        if stopping():
            return StoppedError()
        if time.monotonic() <= end:
            return KeyboardInterrupt()  # it was raised in the progress handler, where SQLite ends it
        return DatabaseUnreadableError(f"{path}: reading it takes longer than {_QUERY_SECS:.0f} seconds")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _LockedError(f"{path}: another program keeps it locked")
    hint = ""
    if "readonly_shm" in mode and _stamp(f"{path}-shm") is None:
        hint = f"; its log {path.name}-wal has no {path.name}-shm: start Arawn once, which merges the log"
    return DatabaseUnreadableError(f"{path}: {error}{hint}")


def _require_tables(connection: sqlite3.Connection, path: Path, tables: Collection[str]) -> None:
    """Refuse a view or virtual table, which has no page in the file, as a table."""
    for table in tables:
        kinds = connection.execute("SELECT type, rootpage FROM sqlite_master WHERE lower(name) = ?", (table,)).fetchall()
        if any(os.fsdecode(kind) != "table" or not page for kind, page in kinds):
            raise DatabaseUnreadableError(f"{path}: {table} is not an ordinary table")


def _mode(path: Path) -> str:
    """Return the URI parameters that open the database without writing anything.

    Without a log the main file is complete, and `immutable` needs no `-shm`. With a log, its
    existing `-shm` is used read-only: SQLite reads a log whatever the header says. It deletes the
    log of an empty file, unless that is `immutable`.
    """
    try:
        header = _header(path)
        _check_companions(path)
    except OSError as error:
        raise DatabaseUnreadableError(f"{error.filename or path}: {error.strerror}") from error
    log = _stamp(f"{path}-wal")
    if header and log and log[1]:
        return "mode=ro&readonly_shm=1"
    if not header or header[18:20] == bytes((_WAL_FORMAT, _WAL_FORMAT)):
        return "mode=ro&immutable=1"
    return "mode=ro"


def _header(path: Path) -> bytes:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device can have effects
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.read(descriptor, 20)
    finally:
        os.close(descriptor)


def _check_companions(path: Path) -> None:
    """Refuse files beside the database that SQLite would open, and its owner's did not make."""
    owner = os.stat(path).st_uid
    for suffix in COMPANIONS:
        companion = f"{path}{suffix}"
        try:
            status = os.lstat(companion)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file: remove it while Arawn is stopped", companion)
        if status.st_nlink > 1:
            raise OSError(errno.EINVAL, "the file has several names: remove it while Arawn is stopped", companion)
        if status.st_uid != owner:
            raise OSError(errno.EINVAL, f"belongs to another account than {path.name}: chown it while Arawn is stopped", companion)


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
