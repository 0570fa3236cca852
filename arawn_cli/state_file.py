"""The schema and the checks of the state file, `state.db`.

The file has one schema version. Damage is found when the file is opened: by SQLite's own check, by
the constraints of the schema, and by a checksum of each event, so that no damaged event reaches a
relay, or another one than its own.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from zlib import crc32

from arawn_cli.errors import StateUnavailableError
from arawn_cli.sqlite import LONGEST_OWN_VALUE, Row, read_database

FILE = "state.db"

SCHEMA_VERSION = 107
"""`PRAGMA user_version` of the file. Builds before the first release used 1 to 106."""

_NEWEST_VERSION = 999
"""A higher number is damage, not a newer program."""

_APPLICATION_ID = 0x6172776E
"""`PRAGMA application_id` of the file: `arwn`."""

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
    answer TEXT,
    refusals INTEGER NOT NULL DEFAULT 0,
    refused_at INTEGER,
    checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_by_drop_priority ON outbox (drop_priority, sequence);
CREATE INDEX outbox_by_scope ON outbox (scope, sequence) WHERE scope <> '';

CREATE TABLE runs (
    job TEXT NOT NULL,
    root TEXT NOT NULL,
    last_run INTEGER NOT NULL,
    last_success INTEGER,
    removed_sessions INTEGER NOT NULL CHECK (removed_sessions >= 0),
    freed_bytes INTEGER NOT NULL CHECK (freed_bytes >= 0),
    PRIMARY KEY (job, root)
) STRICT;

-- Sessions that were removed in the last year, and not restored since. The time removed_at is in whole
-- seconds, as in the name of an entry of the trash.
CREATE TABLE removals (
    root TEXT NOT NULL,
    session TEXT NOT NULL,
    removed_at INTEGER NOT NULL,
    run INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    purged_at INTEGER,
    PRIMARY KEY (root, session, removed_at)
) STRICT, WITHOUT ROWID;

-- The clocks at the start of the last cleanup of each root.
CREATE TABLE clocks (
    root TEXT PRIMARY KEY,
    wall INTEGER NOT NULL,
    boot TEXT,
    elapsed INTEGER NOT NULL,
    refused INTEGER NOT NULL CHECK (refused IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
    root TEXT NOT NULL,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('bytes', 'inodes')),
    usage INTEGER NOT NULL CHECK (usage >= 0),
    warning_limit INTEGER NOT NULL CHECK (warning_limit >= 0),
    critical_limit INTEGER NOT NULL CHECK (critical_limit >= 0),
    level TEXT NOT NULL CHECK (level IN ('ok', 'warning', 'critical', 'unknown')),
    warnings INTEGER NOT NULL CHECK (warnings BETWEEN 0 AND 1000000000),
    criticals INTEGER NOT NULL CHECK (criticals BETWEEN 0 AND 1000000000),
    notified_at INTEGER,
    PRIMARY KEY (root, scope)
) STRICT, WITHOUT ROWID;

-- The last notice to people about each subject: the level of a scope, the failure of a job, or when a
-- session expires. A subject about which all is well has no row.
CREATE TABLE notices (
    root TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('level', 'job', 'session')),
    subject TEXT NOT NULL,
    value TEXT NOT NULL,
    notified_at INTEGER NOT NULL,
    PRIMARY KEY (root, kind, subject)
) STRICT, WITHOUT ROWID;

-- Persistent problems that were logged, so that they are logged once a day. Those of all jobs have no job and root.
CREATE TABLE problems (
    job TEXT NOT NULL,
    root TEXT NOT NULL,
    problem TEXT NOT NULL,
    about TEXT NOT NULL,
    logged_at INTEGER NOT NULL,
    ended TEXT NOT NULL,
    PRIMARY KEY (job, root, problem)
) STRICT, WITHOUT ROWID;

CREATE TABLE transitions (
    number INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    root TEXT NOT NULL,
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    unit TEXT NOT NULL CHECK (unit IN ('bytes', 'inodes')),
    usage INTEGER NOT NULL CHECK (usage >= 0),
    warning_limit INTEGER NOT NULL CHECK (warning_limit >= 0),
    level_before TEXT NOT NULL CHECK (level_before IN ('ok', 'warning', 'critical', 'unknown')),
    level TEXT NOT NULL CHECK (level IN ('ok', 'warning', 'critical', 'unknown'))
) STRICT;

CREATE TABLE scopes (id INTEGER PRIMARY KEY, root TEXT NOT NULL, scope TEXT NOT NULL, UNIQUE (root, scope)) STRICT;

-- The hour is the first column of the key, because the rows of some hours are read or deleted together.
CREATE TABLE samples (
    hour INTEGER NOT NULL CHECK (abs(hour) < 3000000),
    scope INTEGER NOT NULL REFERENCES scopes,
    usage INTEGER NOT NULL CHECK (usage >= 0),
    PRIMARY KEY (hour, scope)
) STRICT, WITHOUT ROWID;

CREATE TABLE sizes (
    root TEXT NOT NULL,
    session TEXT NOT NULL,
    measured_at INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    apparent INTEGER NOT NULL CHECK (apparent >= 0),
    allocated INTEGER NOT NULL CHECK (allocated >= 0),
    files INTEGER NOT NULL CHECK (files >= 0),
    directories INTEGER NOT NULL CHECK (directories >= 0),
    largest INTEGER NOT NULL CHECK (largest >= 0),
    newest INTEGER,
    PRIMARY KEY (root, session)
) STRICT, WITHOUT ROWID;

-- The messages of each workstream.
CREATE TABLE log_positions (
    root TEXT NOT NULL,
    identity TEXT NOT NULL CHECK (identity GLOB '[0-9]*:[0-9]*' AND trim(identity, '0123456789') = ':'),
    position INTEGER NOT NULL CHECK (position >= 0),
    PRIMARY KEY (root, identity)
) STRICT
"""

_TABLES_OF_OURS = 4
"""So many of our tables show that a file is ours, even if its application id is damaged."""

CHECKED = ("event_id", "type", "time", "source", "body", "scope", "level", "target", "root")
"""The columns of an event that its checksum protects: all that decide content and target."""

_READ_CHECKED = f"SELECT checksum, {', '.join(CHECKED)} FROM outbox"  # noqa: S608 - names of columns

BUSY_SECS = 2.0
RETRY_SECS = 0.02

# Results that no intact file of ours gives. Python gives the first one for text that is not UTF-8.
_DAMAGE = (
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)


class DamagedError(Exception):
    """The file is not a database, is damaged, or lacks the tables of the current version."""


class OlderError(DamagedError):
    """The file has tables of an older version."""


def checksum(values: Iterable[object]) -> int:
    """Return the checksum of an event from its values, in the order of `CHECKED`."""
    return crc32(repr(tuple(values)).encode())


def connect_again(path: Path) -> sqlite3.Connection:
    """Connect to the file as `connect`; a page that is unreadable only once is not damage."""
    with suppress(DamagedError):
        return connect(path)
    return connect(path)


def connect(path: Path) -> sqlite3.Connection:
    """Connect to the file, create its tables if it is new, and check all of it.

    Raises:
        DamagedError: the file is damaged or of an older version.
        StateUnavailableError: the file is of a newer version, or of another program.
        sqlite3.Error: it cannot be opened.
    """
    deadline = time.monotonic() + BUSY_SECS
    while True:
        connection = _connected(path)
        try:
            _prepare(connection, path)
            return connection
        except BaseException as error:  # whatever it is, nobody else closes the connection
            connection.close()
            # Switching a new file to WAL does not obey the busy timeout, so it is tried again here.
            is_busy = isinstance(error, sqlite3.OperationalError) and primary_code(error) == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECS)


def copy_in_memory(path: Path) -> sqlite3.Connection | None:
    """Return a checked copy of the file, which stays as it is, or None if there is none.

    Raises:
        DamagedError, StateUnavailableError: as `connect`.
        DatabaseUnreadableError, OSError: it cannot be read.
    """
    try:
        path.stat()  # from Python 3.14 on, `exists` hides errors
    except FileNotFoundError:
        return None
    copy = _connected(Path(":memory:"))

    def fill(connection: sqlite3.Connection) -> None:
        # Within a transaction the copy does not wait for a lock.
        connection.execute("BEGIN")
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        connection.backup(copy)

    try:
        read_database(path, fill)
        _prepare(copy, path)
    except BaseException:  # as in `connect`
        copy.close()
        raise
    return copy


def _connected(path: Path) -> sqlite3.Connection:
    # Only one thread uses the connection at a time, but not always the same one.
    return sqlite3.connect(path, timeout=BUSY_SECS, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of an empty database, or check all of it."""
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_OWN_VALUE)
        _refuse_foreign(connection, path)
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")
        _create_tables(connection)
        _check_content(connection)
    except UnicodeDecodeError as error:
        raise DamagedError(str(error)) from error
    except sqlite3.Error as error:
        if is_damage(error, path):
            raise DamagedError(str(error)) from error
        raise


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse the database of another program."""
    tables, ours = (_tables_in(schema) for schema in (_schema_of(connection), _schema()))
    if tables and _application_id(connection) != _APPLICATION_ID and len(tables & ours) < _TABLES_OF_OURS:
        raise StateUnavailableError(f"{path} belongs to another program and was not changed: set state_dir to another directory")


def _tables_in(schema: list[Row]) -> set[object]:
    return {name for kind, name, *_ in schema if kind == "table" and name != "sqlite_sequence"}


def _create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file, and set version and application id."""
    if _schema_of(connection) == _schema() and (version_of(connection), _application_id(connection)) == (SCHEMA_VERSION, _APPLICATION_ID):
        return
    with connection:  # commits, or rolls back
        connection.execute("BEGIN IMMEDIATE")
        version, schema = version_of(connection), _schema_of(connection)  # another run may have created them meanwhile
        if not schema and version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        elif schema != _schema():
            raise _other_version(version)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")


def _other_version(version: int) -> Exception:
    """Return the error for a file whose tables are not those of the current version."""
    if SCHEMA_VERSION < version <= _NEWEST_VERSION:
        return StateUnavailableError(f"the state file is of a newer version ({version}) than this program knows ({SCHEMA_VERSION})")
    if version == SCHEMA_VERSION:
        return DamagedError("its tables are not complete")
    kind = OlderError if 0 <= version < SCHEMA_VERSION else DamagedError
    return kind(f"its version is {version}, and this program uses {SCHEMA_VERSION}")


def _check_content(connection: sqlite3.Connection) -> None:
    """Check structure, constraints and the checksum of each event."""
    ((problem,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if problem != "ok":
        raise DamagedError(problem)
    if any(stored != checksum(values) for stored, *values in connection.execute(_READ_CHECKED)):
        raise DamagedError("an event in the outbox is damaged")


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the schema of an open file."""
    row: tuple[int] = connection.execute("PRAGMA user_version").fetchone()
    return row[0]


def _application_id(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA application_id").fetchone()
    return row[0]


def _schema_of(connection: sqlite3.Connection) -> list[Row]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


@cache
def _schema() -> list[Row]:
    """Return the schema of a file of the current version, as SQLite stores it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema_of(connection)


def is_damage(error: sqlite3.Error, path: Path | None = None) -> bool:
    """Whether an error is one of the content of the file, and not of access, space or locks."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGE:
        return True
    # A wrong version of the format in the header makes a file read-only
    # (sqlite.org/fileformat.html).
    return code == sqlite3.SQLITE_READONLY and path is not None and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def primary_code(error: sqlite3.Error) -> int:
    """Return the primary result code, without SQLite's extension of it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
