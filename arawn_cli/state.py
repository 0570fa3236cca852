"""The state file: what must survive from one run to the next, in SQLite.

Each commit is written to the write-ahead log at once, which a killed process cannot take back, and
reaches the disk with `settle`, which a power cut cannot take back.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from arawn_cli.errors import ArawnCliError
from arawn_cli.occupancy import try_lock

log = logging.getLogger(__name__)

FILE = "state.db"

# One script a schema version, oldest first; `PRAGMA user_version` counts those that were applied.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE outbox (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL UNIQUE,
            type TEXT NOT NULL,
            time TEXT NOT NULL,
            source TEXT NOT NULL,
            scope TEXT NOT NULL,
            level TEXT NOT NULL,
            worth INTEGER NOT NULL,
            body BLOB NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            answer TEXT
        ) STRICT
        """,
        "CREATE INDEX outbox_by_worth ON outbox (worth, sequence)",
        "CREATE INDEX outbox_by_scope ON outbox (scope, sequence) WHERE scope <> ''",
    ),
    ("CREATE TABLE runs (job TEXT, root TEXT, last_run INTEGER NOT NULL, PRIMARY KEY (job, root)) STRICT",),
)

_BUSY_SECS = 2.0
_BUSY_NAP_SECS = 0.02
_REPAIR_SECS = 2.0
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StateUnavailableError(ArawnCliError):
    """The state file cannot be used now; what it holds is left as it is."""


class _CorruptError(Exception):
    """The file is no database, or a damaged one."""


class State:
    """An open state file."""

    def __init__(self, connection: sqlite3.Connection, directory: Path) -> None:
        self._connection = connection
        self.directory = directory

    def close(self) -> None:
        """Closes the file; what is committed stays."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done on the connection inside is kept together, or none of it.

        Raises:
            StateUnavailableError: the file takes no change (full disk, read-only, busy, damaged).
        """
        with _told(self.directory):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # A full disk or an I/O error makes SQLite roll back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        with _told(self.directory):
            yield self._connection

    def settle(self) -> None:
        """Brings what is committed to the disk.

        Raises:
            StateUnavailableError: the disk does not take it.
        """
        with _told(self.directory):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def open_state(directory: Path, clock: Callable[[], int]) -> State:
    """Opens the state file in a directory, and makes both if need be.

    A damaged file is set aside beside it, with the time of `clock` (nanoseconds) in its name, and a new one begun.

    Raises:
        StateUnavailableError: it cannot be opened or made, or a newer version of the program wrote it.
    """
    with _told(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            return State(_connect(directory), directory)
        except _CorruptError:
            _set_aside(directory, clock() // 1_000_000_000)
            return State(_connect(directory), directory)


@contextmanager
def exclusive(directory: Path) -> Iterator[bool]:
    """The lock of a state directory, while the context lasts; false where another run holds it.

    It is the BSD lock of the directory itself, which needs no room on a full disk.

    Raises:
        StateUnavailableError: the directory cannot be opened or locked.
    """
    with _told(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield try_lock(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """Says in one line what keeps the state from being used."""
    try:
        yield
    except sqlite3.Error as error:
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error}") from error
    except _CorruptError as error:
        raise StateUnavailableError(f"the state in {directory} is damaged: {error}") from error
    except OSError as error:
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error.strerror}") from error


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
    """Makes the file with its mode before SQLite does, which gives its log and index the mode of the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _migrate(connection: sqlite3.Connection) -> None:
    if _version(connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _version(connection)
        if found > len(MIGRATIONS):
            raise sqlite3.OperationalError(f"its schema {found} is newer than this program's {len(MIGRATIONS)}")
        for number, statements in enumerate(MIGRATIONS[found:], start=found + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA user_version").fetchone()
    return row[0]


def _check(connection: sqlite3.Connection) -> None:
    """Looks at every page of the outbox, which is empty as a rule."""
    rows: list[tuple[str]] = connection.execute("PRAGMA quick_check(outbox)").fetchall()
    if rows != [("ok",)]:
        raise _CorruptError(rows[0][0] if rows else "the check found nothing")


def _set_aside(directory: Path, seconds: int) -> None:
    """Renames a damaged file, its log and its index; of two runs that find the damage at once, one does it."""
    give_up = time.monotonic() + _REPAIR_SECS
    while True:
        with exclusive(directory) as ours:
            if ours:
                _rename_if_corrupt(directory, seconds)
                return
        if time.monotonic() > give_up:
            raise StateUnavailableError(f"the state in {directory} is damaged, and another run is at work on it")
        time.sleep(0.02)


def _rename_if_corrupt(directory: Path, seconds: int) -> None:
    try:
        _connect(directory).close()
    except _CorruptError as error:
        aside = _free_name(directory, f"{FILE}.damaged-{seconds}")
        for suffix in ("-wal", "-shm", ""):
            if (directory / f"{FILE}{suffix}").exists():
                os.rename(directory / f"{FILE}{suffix}", directory / f"{aside}{suffix}")
        log.warning("the state file %s is damaged (%s): set aside as %s, and a new one begun", directory / FILE, error, aside)


def _free_name(directory: Path, name: str) -> str:
    number, free = 1, name
    while (directory / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free
