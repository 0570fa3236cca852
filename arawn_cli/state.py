"""The state file: an SQLite database with levels, history, runs and the outbox."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from arawn_cli.errors import ArawnCliError
from arawn_cli.locks import try_lock
from arawn_cli.sqlite import DatabaseUnreadableError, query

log = logging.getLogger(__name__)

TABLES = frozenset({"outbox", "runs", "alerts", "transitions", "scopes", "samples", "sizes", "marks"})
"""The tables of the newest version."""


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
    (
        """
        CREATE TABLE alerts (
            root TEXT NOT NULL,
            scope TEXT NOT NULL,
            name TEXT NOT NULL,
            unit TEXT NOT NULL,
            usage INTEGER NOT NULL,
            warning_limit INTEGER NOT NULL,
            critical_limit INTEGER NOT NULL,
            level TEXT NOT NULL,
            warnings INTEGER NOT NULL,
            criticals INTEGER NOT NULL,
            told_at INTEGER,
            PRIMARY KEY (root, scope)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE transitions (
            number INTEGER PRIMARY KEY,
            time INTEGER NOT NULL,
            root TEXT NOT NULL,
            scope TEXT NOT NULL,
            name TEXT NOT NULL,
            unit TEXT NOT NULL,
            usage INTEGER NOT NULL,
            warning_limit INTEGER NOT NULL,
            level_before TEXT NOT NULL,
            level TEXT NOT NULL
        ) STRICT
        """,
        "CREATE TABLE scopes (id INTEGER PRIMARY KEY, root TEXT NOT NULL, scope TEXT NOT NULL, UNIQUE (root, scope)) STRICT",
        # By hour first: what is read, compared and pruned are always the rows of some hours.
        """
        CREATE TABLE samples (
            hour INTEGER NOT NULL,
            scope INTEGER NOT NULL REFERENCES scopes,
            usage INTEGER NOT NULL,
            PRIMARY KEY (hour, scope)
        ) STRICT, WITHOUT ROWID
        """,
        "ALTER TABLE outbox ADD COLUMN target TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE outbox ADD COLUMN root TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE runs ADD COLUMN last_success INTEGER",
        "ALTER TABLE runs ADD COLUMN removed_sessions INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN reclaimed_bytes INTEGER NOT NULL DEFAULT 0",
    ),
    (
        """
        CREATE TABLE sizes (
            root TEXT NOT NULL,
            session TEXT NOT NULL,
            measured_at INTEGER NOT NULL,
            shape TEXT NOT NULL,
            apparent INTEGER NOT NULL,
            allocated INTEGER NOT NULL,
            files INTEGER NOT NULL,
            directories INTEGER NOT NULL,
            newest INTEGER,
            PRIMARY KEY (root, session)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE TABLE marks (root TEXT PRIMARY KEY, identity TEXT NOT NULL, position INTEGER NOT NULL) STRICT",
    ),
    # What was measured without its largest file is measured anew.
    ("DELETE FROM sizes", "ALTER TABLE sizes ADD COLUMN largest INTEGER NOT NULL DEFAULT 0"),
)


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


# The columns of every version; those that came later have defaults.
# Not through an index: the table itself may be whole where an index is not.
_READ = "SELECT event_id, type, time, source, scope, level, worth, body FROM outbox NOT INDEXED ORDER BY rowid"


_WRITE = "INSERT INTO outbox (event_id, type, time, source, scope, level, worth, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


_Row = tuple[object, ...]


def salvaged(path: Path) -> tuple[list[_Row], bool]:
    """The rows of the outbox in their order, from its beginning as far as they can be read, and whether that is all."""
    rows: list[_Row] = []
    try:
        with closing(sqlite3.connect(path)) as connection:
            for row in connection.execute(_READ):
                rows.append(row)
    except sqlite3.Error:
        return rows, False
    return rows, True


def carry_over(connection: sqlite3.Connection, rows: Sequence[_Row]) -> int:
    """Puts rows into a new outbox, and answers how many it took: one whose values do not fit their columns is none."""
    carried = 0
    for row in rows:
        try:
            connection.execute(_WRITE, row)
            carried += 1
        except sqlite3.IntegrityError:
            continue
    return carried


LARGEST = 2**63 - 1
"""The largest integer that the file holds (sqlite.org/datatype3.html)."""


def key_of(root: Path) -> str:
    """A root as the file names it: bytes that are no UTF-8 are escaped."""
    return os.fsencode(root).decode("utf-8", "backslashreplace")


class State:
    """The state file of one run: opened when it is first needed, and then by one connection for all.

    A second descriptor of the file must not be opened beside that connection: closing it would drop the
    locks of the whole process on the file (fcntl(2)), and another run could take the log away (sqlite.org/howtocorrupt.html).
    """

    def __init__(self, directory: Path, clock: Callable[[], int]) -> None:
        """`clock` is the wall clock in nanoseconds; a damaged file that is set aside gets its time as part of its name."""
        self.directory = directory
        self._clock = clock
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Closes the file; what is committed stays, and the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done on the connection inside is kept together, or none of it.

        Raises:
            StateUnavailableError: the file takes no change (full disk, read-only, busy, damaged).
        """
        with self._repaired(), told(self.directory):
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # A full disk or an I/O error makes SQLite roll back by itself.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        with self._repaired(), told(self.directory):
            yield self._opened()

    @contextmanager
    def _repaired(self) -> Iterator[None]:
        """Sets a file aside whose damage shows only now: the next use, at the latest that of the next run, begins anew."""
        try:
            yield
        except StateUnavailableError as error:
            if is_corrupt(error.__cause__):
                self.close()
                with told(self.directory):
                    set_aside(self.directory, self._clock() // 1_000_000_000, str(error.__cause__))
            raise

    def select(self, statement: str, parameters: tuple[str | int, ...]) -> list[tuple[object, ...]]:
        """What a query answers; a file that is not open is read without a trace, and one that is not there holds nothing.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        with told(self.directory):
            if self._connection is not None:
                return self._connection.execute(statement, parameters).fetchall()
            path = self.directory / FILE
            return _select(path, statement, parameters) if path.exists() else []

    def ready(self) -> None:
        """Opens the file, so that damage is found and an older one brought up to date.

        Raises:
            StateUnavailableError: it cannot be opened.
        """
        with self.reading():
            pass

    def settle(self) -> None:
        """Brings what is committed to the disk.

        Raises:
            StateUnavailableError: the disk does not take it.
        """
        with told(self.directory):
            self._opened().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_file(self.directory, self._clock)
        return self._connection


def _select(path: Path, statement: str, parameters: tuple[str | int, ...]) -> list[tuple[object, ...]]:
    try:
        return query(path, statement, parameters, text=str)
    except DatabaseUnreadableError as error:
        if _is_older(path):
            return []  # what is asked for came with a later version, and the next change brings it
        raise StateUnavailableError(str(error)) from error


def _is_older(path: Path) -> bool:
    try:
        ((version,),) = query(path, "PRAGMA user_version", ())
    except DatabaseUnreadableError:
        return False
    return isinstance(version, int) and version < len(MIGRATIONS)
