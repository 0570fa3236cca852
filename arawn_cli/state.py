"""Keep levels, history, runs and the outbox in an SQLite file, `state.db`.

The file has one schema version. A file of an older version is treated like a damaged one: it is
renamed, a new file is begun, and the undelivered events are copied into it. Only they cannot be
obtained again: levels, history and sizes come back with the next checks. A file of a newer version
is left alone, since this program cannot read its events.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from arawn_cli.errors import ArawnCliError
from arawn_cli.locks import try_lock
from arawn_cli.sqlite import COMPANIONS, DatabaseUnreadableError, query

log = logging.getLogger(__name__)

FILE = "state.db"

SCHEMA_VERSION = 102
"""`PRAGMA user_version` of the file. Builds before the first release used 1 to 5."""

MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite stores (sqlite.org/datatype3.html)."""

_SCHEMA = """
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    time TEXT NOT NULL,
    source TEXT NOT NULL,
    target TEXT NOT NULL DEFAULT '',
    root TEXT NOT NULL DEFAULT '',
    scope TEXT NOT NULL,
    level TEXT NOT NULL,
    drop_priority INTEGER NOT NULL,
    body BLOB NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    answer TEXT
) STRICT;
CREATE INDEX outbox_by_drop_priority ON outbox (drop_priority, sequence);
CREATE INDEX outbox_by_scope ON outbox (scope, sequence) WHERE scope <> '';

CREATE TABLE runs (
    job TEXT NOT NULL,
    root TEXT NOT NULL,
    last_run INTEGER NOT NULL,
    last_success INTEGER,
    removed_sessions INTEGER NOT NULL,
    reclaimed_bytes INTEGER NOT NULL,
    PRIMARY KEY (job, root)
) STRICT;

-- The clocks at the start of the last cleanup of each root.
CREATE TABLE clocks (
    root TEXT PRIMARY KEY,
    wall INTEGER NOT NULL,
    boot TEXT,
    elapsed INTEGER NOT NULL,
    refused INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

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
    notified_at INTEGER,
    PRIMARY KEY (root, scope)
) STRICT, WITHOUT ROWID;

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
) STRICT;

CREATE TABLE scopes (id INTEGER PRIMARY KEY, root TEXT NOT NULL, scope TEXT NOT NULL, UNIQUE (root, scope)) STRICT;

-- The hour is the first column of the key, because the rows of some hours are read or deleted together.
CREATE TABLE samples (
    hour INTEGER NOT NULL,
    scope INTEGER NOT NULL REFERENCES scopes,
    usage INTEGER NOT NULL,
    PRIMARY KEY (hour, scope)
) STRICT, WITHOUT ROWID;

CREATE TABLE sizes (
    root TEXT NOT NULL,
    session TEXT NOT NULL,
    measured_at INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    apparent INTEGER NOT NULL,
    allocated INTEGER NOT NULL,
    files INTEGER NOT NULL,
    directories INTEGER NOT NULL,
    largest INTEGER NOT NULL,
    newest INTEGER,
    PRIMARY KEY (root, session)
) STRICT, WITHOUT ROWID;

-- The messages of each workstream.
CREATE TABLE log_positions (root TEXT NOT NULL, identity TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (root, identity)) STRICT
"""

_TABLES = frozenset({"outbox", "runs", "clocks", "alerts", "transitions", "scopes", "samples", "sizes", "log_positions"})

_BUSY_SECS = 2.0
_RETRY_SECS = 0.02

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_ACCESS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_REMEDY = " (name another directory with [maintenance] state_dir, or run arawn-cli doctor)"


class StateUnavailableError(ArawnCliError):
    """The state file cannot be used now. Its content is unchanged."""


class _DamagedError(Exception):
    """The file is not a database, is damaged, or lacks the tables of the current version."""


def key_of(root: Path) -> str:
    """Return the text by which the file identifies a root. Bytes that are not UTF-8 are escaped."""
    return os.fsencode(root).decode("utf-8", "backslashreplace")


class State:
    """The state file of one run. It is opened at the first use, with one connection for all uses.

    No second descriptor of the file may be opened while that connection is open. Closing it would
    release the locks that the process holds on the file (fcntl(2)), and another run could then
    delete the write-ahead log (sqlite.org/howtocorrupt.html).
    """

    def __init__(self, directory: Path, clock: Callable[[], int]) -> None:
        """`clock` is the wall clock in nanoseconds.

        Its time becomes part of the name of a damaged file.
        """
        self.directory = directory
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    @classmethod
    def in_memory(cls) -> State:
        """Return an empty state with the same tables that ends with the process."""
        state = cls(Path(":memory:"), time.time_ns)
        state._connection = _connect(state.directory)
        return state

    def open(self) -> None:
        """Open the file, which replaces a damaged one.

        Raises:
            StateUnavailableError: it cannot be opened.
        """
        with translate_errors(self.directory):
            self._open()

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection and commit at the end of the block, or roll back if the block raises.

        If the transaction finds that the file is damaged, it fails, and the next use has a new
        file.

        Raises:
            StateUnavailableError: the file cannot be written (full disk, read-only, busy, damaged).

        """
        with translate_errors(self.directory):
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                # SQLite rolls back by itself after a full disk or an I/O error.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error) and _code(error) in _CORRUPT:
                    self.close()
                    _replace(self.directory, self._inode, self._clock, str(error))
                raise

    def select(self, statement: str, parameters: tuple[str | int, ...]) -> list[tuple[object, ...]]:
        """Return the rows of a query.

        A file that is not open is read without changing anything on disk.

        The result is empty if there is no file, or an empty or older one that lacks the table.

        Raises:
            StateUnavailableError: the file cannot be read.

        """
        with translate_errors(self.directory):
            if self._connection is not None:
                return self._connection.execute(statement, parameters).fetchall()
            path = self.directory / FILE
            return _select(path, statement, parameters) if path.exists() else []

    def checkpoint(self) -> None:
        """Write committed transactions to the disk, so that they survive a power cut.

        Raises:
            StateUnavailableError: the write fails.
        """
        with translate_errors(self.directory):
            self._open().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            _check_directory(self.directory)
            self._inode = _make_private(self.directory / FILE)
            try:
                self._connection = _connect(self.directory / FILE)
            except _DamagedError as error:
                _replace(self.directory, self._inode, self._clock, str(error))
                self._inode = _make_private(self.directory / FILE)
                self._connection = _connect(self.directory / FILE)
        return self._connection


@contextmanager
def translate_errors(directory: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the system as `StateUnavailableError` with one line of text."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = _REMEDY if _code(error) in _NO_ACCESS else ""
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error}{remedy}") from error
    except _DamagedError as error:
        raise StateUnavailableError(f"the state in {directory} is damaged: {error}") from error
    except OSError as error:
        remedy = "" if error.errno in _NO_SPACE else _REMEDY
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error.strerror}{remedy}") from error


@contextmanager
def exclusive_lock(directory: Path) -> Iterator[bool]:
    """Hold the lock of a state directory. Yield False if another process holds it.

    It is the BSD lock of the directory itself, which needs no space on a full disk.

    Raises:
        StateUnavailableError: the directory cannot be opened or locked.
    """
    with translate_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield try_lock(descriptor)
        finally:
            os.close(descriptor)


def check_owner(directory: Path) -> None:
    """Check that no other account can have written an existing state, before it is only read.

    Raises:
        StateUnavailableError: another account can.
    """
    with translate_errors(directory):
        _check_directory(directory)
        _check_file(directory / FILE)


def _check_directory(directory: Path) -> None:
    """Refuse a directory in which others could place events to be sent, or a link."""
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise StateUnavailableError(f"the state directory {directory} belongs to another account: name one of your own with state_dir")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StateUnavailableError(f"the state directory {directory} is writable by others: run chmod go-w on it")


def _check_file(path: Path) -> os.stat_result:
    """Refuse a link, a special file, and a file of another account. Return the status of the file.

    The same holds for the files beside it. None is opened: see `State`.
    """
    for companion in (f"{path}{suffix}" for suffix in COMPANIONS):
        with suppress(FileNotFoundError):
            _check_own(Path(companion), os.lstat(companion))
    status = path.lstat()
    _check_own(path, status)
    return status


def _check_own(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        problem = "has several names" if stat.S_ISREG(status.st_mode) else "is not a regular file"
        raise StateUnavailableError(f"{path} {problem}: remove it, or name another state_dir")
    if status.st_uid != os.geteuid():
        raise StateUnavailableError(f"{path} belongs to another account: remove it, or name another state_dir")


def _make_private(path: Path) -> int:
    """Create the file with mode 600, or correct the mode of an existing one. Return its inode.

    SQLite gives the mode of the file to its log and index.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    status = _check_file(path)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(0o600)
    return status.st_ino


def _connect(path: Path) -> sqlite3.Connection:
    """Connect to the file, create its tables if it is new, and check it.

    Raises:
        _DamagedError: the file is damaged or of an older version.
        StateUnavailableError: the file is of a newer version.
        sqlite3.Error: it cannot be opened.
    """
    deadline = time.monotonic() + _BUSY_SECS
    while True:
        # Only one thread uses the connection at a time, but not always the same one.
        connection = sqlite3.connect(path, timeout=_BUSY_SECS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            _create_tables(connection)
            _check_tables(connection)
            return connection
        except BaseException as error:
            connection.close()
            if isinstance(error, sqlite3.Error) and _code(error) in _CORRUPT:
                raise _DamagedError(str(error)) from error
            # Switching a new file to WAL does not obey the busy timeout, so it is tried again here.
            is_busy = isinstance(error, sqlite3.OperationalError) and _code(error) == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECS)


def _create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file."""
    if _version(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # another run may have created them meanwhile
        if version > SCHEMA_VERSION:
            raise StateUnavailableError(f"the state file is of a newer version ({version}) than this program knows ({SCHEMA_VERSION})")
        if version == 0 and not _tables(connection):
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise _DamagedError(f"its version is {version}, and this program uses {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_tables(connection: sqlite3.Connection) -> None:
    """Check that all tables exist, and every page of the outbox, which is usually empty."""
    if missing := _TABLES - _tables(connection):
        raise _DamagedError(f"it lacks {', '.join(sorted(missing))}")
    rows: list[tuple[str]] = connection.execute("PRAGMA quick_check(outbox)").fetchall()
    if rows != [("ok",)]:
        raise _DamagedError(rows[0][0] if rows else "the check found nothing")


def _version(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA user_version").fetchone()
    return row[0]


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows: list[tuple[str]] = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name for (name,) in rows}


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code, without SQLite's extension of it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _replace(directory: Path, inode: int, clock: Callable[[], int], damage: str) -> None:
    """Rename a damaged file with its log, and begin a new one with its undelivered events.

    Of several runs that find the damage at once, one does this: the others see another inode.
    """
    deadline = time.monotonic() + _BUSY_SECS
    while True:
        with exclusive_lock(directory) as is_held:
            if is_held:
                if (directory / FILE).lstat().st_ino == inode:
                    _begin_anew(directory, clock() // 1_000_000_000, damage)
                return
        if time.monotonic() > deadline:
            raise StateUnavailableError(f"the state in {directory} is damaged, and another run holds its lock")
        time.sleep(_RETRY_SECS)


def _begin_anew(directory: Path, seconds: int, damage: str) -> None:
    path = directory / FILE
    events, is_complete = _read_events(path)
    aside = f"{FILE}.damaged-{seconds}"
    number = 1
    while (directory / aside).exists():
        number += 1
        aside = f"{FILE}.damaged-{seconds}-{number}"
    for suffix in ("-wal", "-shm", ""):
        if (directory / f"{FILE}{suffix}").exists():
            os.rename(directory / f"{FILE}{suffix}", directory / f"{aside}{suffix}")
    _make_private(path)
    with closing(_connect(path)) as connection:
        copied = _copy_events(connection, events)
    lost = "" if is_complete and copied == len(events) else ", others may be lost"
    log.warning(
        "the state file %s cannot be used (%s): renamed to %s; began a new one with %d undelivered events%s",
        path,
        damage,
        aside,
        copied,
        lost,
    )


def _read_events(path: Path) -> tuple[list[dict[str, object]], bool]:
    """Return the rows of the outbox in order, up to the first unreadable one, and if these are all.

    The rows are those of any version: each is a dictionary by column.
    """
    events: list[dict[str, object]] = []
    try:
        with closing(sqlite3.connect(path)) as connection:
            # The table may be intact where an index is not.
            cursor = connection.execute("SELECT * FROM outbox NOT INDEXED ORDER BY rowid")
            columns = [name for name, *_ in cursor.description]
            for row in cursor:
                events.append(dict(zip(columns, row, strict=True)))
    except sqlite3.Error:
        return events, False
    return events, True


def _copy_events(connection: sqlite3.Connection, events: list[dict[str, object]]) -> int:
    """Insert rows of another outbox.

    Return the number of those whose values fit the columns of this one.
    """
    known = [name for _, name, *_ in connection.execute("PRAGMA table_info(outbox)") if name != "sequence"]
    copied = 0
    for event in events:
        if "worth" in event:  # the name of this column up to version 5
            event["drop_priority"] = event["worth"]
        columns = [name for name in known if name in event]
        statement = f"INSERT INTO outbox ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - names of columns
        try:
            connection.execute(statement, [event[name] for name in columns])
            copied += 1
        except sqlite3.IntegrityError:
            continue
    return copied


def _select(path: Path, statement: str, parameters: tuple[str | int, ...]) -> list[tuple[object, ...]]:
    try:
        return query(path, statement, parameters, text=str)
    except DatabaseUnreadableError as error:
        try:
            ((version,),) = query(path, "PRAGMA user_version", ())
        except DatabaseUnreadableError:
            version = None
        if isinstance(version, int) and 0 <= version < SCHEMA_VERSION:
            return []  # the next run that writes begins a new file
        raise StateUnavailableError(str(error)) from error
