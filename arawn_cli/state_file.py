"""The file behind the state: opening it, bringing it up to date, and setting it aside when it is damaged."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from arawn_cli.errors import ArawnCliError
from arawn_cli.locks import try_lock
from arawn_cli.salvage import carry_over, salvaged
from arawn_cli.schema import MIGRATIONS, TABLES

log = logging.getLogger(__name__)

FILE = "state.db"

_BUSY_SECS = 2.0
_BUSY_NAP_SECS = 0.02
_REPAIR_SECS = 2.0
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_OUT_OF_REACH = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_REMEDY = " (name another place with [maintenance] state_dir, or see arawn-cli doctor)"
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StateUnavailableError(ArawnCliError):
    """The state file cannot be used now; what it holds is left as it is."""


class _CorruptError(Exception):
    """The file is no database, a damaged one, or one whose tables do not fit its version."""


def is_corrupt(error: BaseException | None) -> bool:
    """Whether SQLite says that the file is damaged."""
    return isinstance(error, sqlite3.Error) and _code(error) in _CORRUPT


def open_file(directory: Path, clock: Callable[[], int]) -> sqlite3.Connection:
    """Opens the state file in a directory, and makes both if need be; a damaged file is set aside, and a new one begun.

    `clock` is the wall clock in nanoseconds.

    Raises:
        StateUnavailableError: directory or file belong to others, are open to them, or are of a newer version.
        sqlite3.Error, OSError: it cannot be opened.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    _refuse_strangers(directory)
    try:
        return _connect(directory)
    except _CorruptError as error:
        set_aside(directory, clock() // 1_000_000_000, str(error))
        return _connect(directory)


def refuse_planted(directory: Path) -> None:
    """Looks whether others can have put something into a state that is there, and is only read.

    Raises:
        StateUnavailableError: they can.
    """
    with told(directory):
        _refuse_strangers(directory)
        _refuse_planted(directory / FILE)


def _refuse_strangers(directory: Path) -> None:
    """Who else can write here can plant events to be sent, and a link to be followed."""
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise StateUnavailableError(f"the state directory {directory} belongs to another account: name one of your own with state_dir")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateUnavailableError(f"the state directory {directory} is writable by others: run chmod go-w on it")


@contextmanager
def exclusive(directory: Path) -> Iterator[bool]:
    """The lock of a state directory, while the context lasts; false where another run holds it.

    It is the BSD lock of the directory itself, which needs no room on a full disk.

    Raises:
        StateUnavailableError: the directory cannot be opened or locked.
    """
    with told(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield try_lock(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def told(directory: Path) -> Iterator[None]:
    """Says in one line what keeps the state from being used."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = _REMEDY if _code(error) in _OUT_OF_REACH else ""
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error}{remedy}") from error
    except _CorruptError as error:
        raise StateUnavailableError(f"the state in {directory} is damaged: {error}") from error
    except OSError as error:
        remedy = "" if error.errno in _NO_ROOM else _REMEDY
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error.strerror}{remedy}") from error


def _connect(directory: Path) -> sqlite3.Connection:
    """A connection to the file; switching a new file to WAL does not wait as the busy timeout says, so it is tried again."""
    give_up = time.monotonic() + _BUSY_SECS
    while True:
        try:
            return _connect_once(directory)
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(_BUSY_NAP_SECS)


def _connect_once(directory: Path) -> sqlite3.Connection:
    path = directory / FILE
    _make_private(path)
    # No thread but the one at work uses it, yet which one that is may change between two calls.
    connection = sqlite3.connect(path, timeout=_BUSY_SECS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")
        _migrate(connection)
        _check(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        if _code(error) in _CORRUPT:
            raise _CorruptError(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _code(error: sqlite3.Error) -> int:
    """The primary result code, without SQLite's extension of it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _make_private(path: Path) -> None:
    """Makes the file with its mode before SQLite does, which gives its log and index the mode of the file.

    A file that is there is looked at by its name: see `State` for why it is not opened.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if _refuse_planted(path) & (stat.S_IRWXG | stat.S_IRWXO):
            path.chmod(0o600)


def _refuse_planted(path: Path) -> int:
    """The mode of a file that is this account's own, and no link."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if status.st_uid != os.geteuid():
        raise StateUnavailableError(f"{path} belongs to another account: remove it, or name another state_dir")
    return status.st_mode


def _migrate(connection: sqlite3.Connection) -> None:
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _version(connection)
        if found > len(MIGRATIONS):
            raise StateUnavailableError(f"the state file is of a newer version ({found}) than this program knows ({len(MIGRATIONS)})")
        if found < 0:
            raise _CorruptError(f"its version is {found}")
        _apply(connection, found)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _apply(connection: sqlite3.Connection, version: int) -> None:
    for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
        for statement in statements:
            try:
                connection.execute(statement)
            except sqlite3.OperationalError as error:
                if _code(error) == sqlite3.SQLITE_ERROR:  # a table that is there already, or is not there
                    raise _CorruptError(f"its tables do not fit its version {version}: {error}") from error
                raise
        connection.execute(f"PRAGMA user_version = {number}")


def _version(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA user_version").fetchone()
    return row[0]


def _check(connection: sqlite3.Connection) -> None:
    """Looks at every page of the outbox, which is empty as a rule, and whether the tables are there."""
    names: list[tuple[str]] = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    if missing := TABLES - {name for (name,) in names}:
        raise _CorruptError(f"it lacks {', '.join(sorted(missing))}")
    rows: list[tuple[str]] = connection.execute("PRAGMA quick_check(outbox)").fetchall()
    if rows != [("ok",)]:
        raise _CorruptError(rows[0][0] if rows else "the check found nothing")


def set_aside(directory: Path, seconds: int, damage: str) -> None:
    """Renames a damaged file, its log and its index; of two runs that find the damage at once, one does it.

    What can be read of the outbox is carried over to a new file.
    """
    give_up = time.monotonic() + _REPAIR_SECS
    while True:
        with exclusive(directory) as ours:
            if ours:
                _replace_if_damaged(directory, seconds, damage)
                return
        if time.monotonic() > give_up:
            raise StateUnavailableError(f"the state in {directory} is damaged, and another run is at work on it")
        time.sleep(0.02)


def _replace_if_damaged(directory: Path, seconds: int, damage: str) -> None:
    if not _is_damaged(directory):
        return
    path = directory / FILE
    rows, whole = salvaged(path)
    aside = _free_name(directory, f"{FILE}.damaged-{seconds}")
    for suffix in ("-wal", "-shm", ""):
        if (directory / f"{FILE}{suffix}").exists():
            os.rename(directory / f"{FILE}{suffix}", directory / f"{aside}{suffix}")
    with closing(_connect(directory)) as connection:
        carried = carry_over(connection, rows)
    lost = "" if whole and carried == len(rows) else "; others that waited may be lost"
    log.warning("the state file %s is damaged (%s): set aside as %s; %d waiting events carried over%s", path, damage, aside, carried, lost)


def _is_damaged(directory: Path) -> bool:
    """Looks as closely as SQLite can; another run may have replaced the file meanwhile."""
    try:
        with closing(_connect(directory)) as connection:
            rows: list[tuple[str]] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    except _CorruptError:
        return True
    except sqlite3.DatabaseError as error:
        if _code(error) in _CORRUPT:
            return True
        raise
    return rows != [("ok",)]


def _free_name(directory: Path, name: str) -> str:
    number, free = 1, name
    while (directory / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free
