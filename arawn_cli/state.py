"""Keep levels, history, runs and the outbox in an SQLite file, `state.db`.

The file has one schema version. A file of an older version is treated like a damaged one: it is
renamed, a new file is begun, and the undelivered events are copied into it. Only they cannot be
obtained again: levels, history and sizes come back with the next checks. A file of a newer version,
or of another program, is left alone.

Damage is found when the file is opened: by SQLite's own check, by the constraints of the schema, and
by a checksum of each event, so that no damaged event reaches a relay, or another one than its own.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from shutil import copyfile
from zlib import crc32

from arawn_cli.errors import ArawnCliError
from arawn_cli.locks import check_private_directory, make_private_directory, try_lock
from arawn_cli.sqlite import COMPANIONS, DatabaseUnreadableError, Row, query

log = logging.getLogger(__name__)

FILE = "state.db"

SCHEMA_VERSION = 104
"""`PRAGMA user_version` of the file. Builds before the first release used 1 to 103."""

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
    attempts INTEGER NOT NULL DEFAULT 0,
    answer TEXT,
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

_TABLES = frozenset({"outbox", "runs", "removals", "clocks", "alerts", "transitions", "scopes", "samples", "sizes", "log_positions"})
_TABLES_OF_OURS = 4
"""So many of them show that a file is ours, even if its application id is missing or damaged."""

_CHECKED = ("event_id", "type", "time", "source", "body", "scope", "level", "target", "root")
"""The columns of an event that its checksum protects: all that decide what is sent, and where."""

_READ_CHECKED = f"SELECT checksum, {', '.join(_CHECKED)} FROM outbox"  # noqa: S608 - names of columns

_READ_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"

_BUSY_SECS = 2.0
_RETRY_SECS = 0.02
_RECOVERY_SECS = 10.0
_PROGRESS_STEPS = 10_000  # of SQLite's virtual machine, about a millisecond
_LONGEST_VALUE = 64 * 1024 * 1024

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
_NO_ACCESS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_REMEDY = " (name another directory with [maintenance] state_dir, or run arawn-cli doctor)"


class StateUnavailableError(ArawnCliError):
    """The state file cannot be used now. Its content is unchanged."""


class _DamagedError(Exception):
    """The file is not a database, is damaged, or lacks the tables of the current version."""


class _ForeignError(StateUnavailableError):
    """The file belongs to another program."""


def checksum(values: Iterable[object]) -> int:
    """Return the checksum of an event from its values, in the order of `_CHECKED`."""
    return crc32(repr(tuple(values)).encode())


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
        self._is_checked = False

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
        with self._replacing_damage():
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself after a full disk or an I/O error.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _replacing_damage(self) -> Iterator[None]:
        """Replace the open file if a statement in the block finds that it is damaged.

        Raises:
            StateUnavailableError: an error of SQLite or of the system, also one of damage.
        """
        with translate_errors(self.directory):
            try:
                yield
            except sqlite3.Error as error:
                if self._inode and _is_damage(error):
                    self.close()
                    _replace(self.directory, self._inode, self._seconds(), str(error))
                raise

    def select(self, statement: str, parameters: tuple[str | int, ...]) -> list[tuple[object, ...]]:
        """Return the rows of a query.

        A file that is not open is read without changing anything on disk.

        The result is empty if there is no file, or one of an older version.

        Raises:
            StateUnavailableError: the file cannot be read, or is damaged.

        """
        with self._replacing_damage():
            if self._connection is not None:
                return self._connection.execute(statement, parameters).fetchall()
            path = self.directory / FILE
            if not path.exists():
                return []
            try:
                if not self._is_checked and not _can_be_read(path):
                    return []
                self._is_checked = True
                return query(path, statement, parameters, text=str)
            except DatabaseUnreadableError as error:
                raise StateUnavailableError(str(error)) from error

    def checkpoint(self) -> None:
        """Write committed transactions to the disk, so that they survive a power cut.

        Raises:
            StateUnavailableError: the write fails.
        """
        with translate_errors(self.directory):
            self._open().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            make_private_directory(self.directory)
            _set_aside_what_is_no_file(self.directory, self._seconds())
            self._inode = _make_private(self.directory / FILE)
            try:
                self._connection = _connect_again(self.directory / FILE)
            except _DamagedError as error:
                _replace(self.directory, self._inode, self._seconds(), str(error))
                self._inode = _make_private(self.directory / FILE)
                self._connection = _connect(self.directory / FILE)
        return self._connection

    def _seconds(self) -> int:
        return self._clock() // 1_000_000_000


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
        check_private_directory(directory)
        _check_file(directory / FILE)


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
    if _is_no_file(status):
        raise StateUnavailableError(f"{path} is not a regular file with one name: remove it, or name another state_dir")
    if status.st_uid != os.geteuid():
        raise StateUnavailableError(f"{path} belongs to another account: remove it, or name another state_dir")


def _is_no_file(status: os.stat_result) -> bool:
    """Whether something is a link, a directory or a special file, or has several names."""
    return not stat.S_ISREG(status.st_mode) or status.st_nlink > 1


def _set_aside_what_is_no_file(directory: Path, seconds: int) -> None:
    """Rename whatever else of this account has the name of the file, or of one that SQLite puts beside it.

    A file with several names is copied: a backup program may have made the others.
    """
    for suffix in ("", *COMPANIONS):
        path = directory / f"{FILE}{suffix}"
        with suppress(FileNotFoundError):
            status = path.lstat()
            if _is_no_file(status) and status.st_uid == os.geteuid():
                aside = f"{_free_name(directory, seconds)}{suffix}"
                os.rename(path, directory / aside)
                if stat.S_ISREG(status.st_mode) and suffix in ("", "-wal"):
                    copyfile(directory / aside, path)
                    path.chmod(0o600)
                log.warning("%s was not a regular file with one name: renamed to %s", path, aside)


def _free_name(directory: Path, seconds: int) -> str:
    """Return a name for a file that is set aside; neither it nor its log exists."""
    taken = set(os.listdir(directory))
    name, number = f"{FILE}.damaged-{seconds}", 1
    while any(f"{name}{suffix}" in taken for suffix in ("", *COMPANIONS)):
        number += 1
        name = f"{FILE}.damaged-{seconds}-{number}"
    return name


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


def _connect_again(path: Path) -> sqlite3.Connection:
    """Connect to the file as `_connect`; a page that is unreadable only once is not damage."""
    with suppress(_DamagedError):
        return _connect(path)
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    """Connect to the file, create its tables if it is new, and check all of it.

    Raises:
        _DamagedError: the file is damaged or of an older version.
        StateUnavailableError: the file is of a newer version, or of another program.
        sqlite3.Error: it cannot be opened.
    """
    deadline = time.monotonic() + _BUSY_SECS
    while True:
        # Only one thread uses the connection at a time, but not always the same one.
        connection = sqlite3.connect(path, timeout=_BUSY_SECS, isolation_level=None, check_same_thread=False)
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            _refuse_foreign(_application_id(connection), _tables(connection), path)
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = NORMAL")
            _create_tables(connection)
            _check_content(connection.execute("PRAGMA integrity_check(1)"), connection.execute(_READ_CHECKED))
            return connection
        except BaseException as error:
            connection.close()
            if isinstance(error, UnicodeDecodeError) or (isinstance(error, sqlite3.Error) and _is_damage(error, path)):
                raise _DamagedError(str(error)) from error
            # Switching a new file to WAL does not obey the busy timeout, so it is tried again here.
            is_busy = isinstance(error, sqlite3.OperationalError) and _code(error) == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY_SECS)


def _refuse_foreign(application: object, tables: set[str], path: Path) -> None:
    """Refuse the database of another program.

    Raises:
        _ForeignError: it is one.
    """
    if tables and application != _APPLICATION_ID and len(tables & _TABLES) < _TABLES_OF_OURS:
        raise _ForeignError(f"{path} belongs to another program, and is left as it is: name another directory with state_dir")


def _create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file, and give one with all tables its version and application id."""
    if _schema_of(connection) == _schema() and (_version(connection), _application_id(connection)) == (SCHEMA_VERSION, _APPLICATION_ID):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version, schema = _version(connection), _schema_of(connection)  # another run may have created them meanwhile
        if not schema and version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
        elif schema != _schema():
            raise _other_version(version)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _other_version(version: object) -> Exception:
    """Return the error for a file whose tables are not those of the current version."""
    if isinstance(version, int) and SCHEMA_VERSION < version <= _NEWEST_VERSION:
        return StateUnavailableError(f"the state file is of a newer version ({version}) than this program knows ({SCHEMA_VERSION})")
    same = version == SCHEMA_VERSION
    return _DamagedError("its tables are not complete" if same else f"its version is {version}, and this program uses {SCHEMA_VERSION}")


def _check_content(problems: Iterable[Row], events: Iterable[Row]) -> None:
    """Check the answer of SQLite's check, and the checksum of each event, which comes first in its row.

    Raises:
        _DamagedError: something is damaged.
    """
    for (problem,) in problems:
        if problem != "ok":
            raise _DamagedError(str(problem))
    if any(stored != checksum(values) for stored, *values in events):
        raise _DamagedError("an event in the outbox is damaged")


def _can_be_read(path: Path) -> bool:
    """Check a file that is only read. Return False if it is empty or of an older version.

    Raises:
        DatabaseUnreadableError, StateUnavailableError: it cannot be read, is damaged, of a newer
            version or of another program.
    """
    ((version, application),) = query(path, "SELECT user_version, application_id FROM pragma_user_version, pragma_application_id", ())
    schema = query(path, _READ_SCHEMA, (), text=str)
    _refuse_foreign(application, {str(name) for kind, name, *_ in schema if kind == "table"}, path)
    if schema == _schema():
        _check_content(query(path, "PRAGMA integrity_check(1)", (), text=str), query(path, _READ_CHECKED, (), text=str))
        constraints = _constraints()
        violations = (
            f"SELECT {number} FROM {table} WHERE NOT ({constraint})"  # noqa: S608 - both from the schema
            for number, (table, constraint) in enumerate(constraints)
        )
        for (number,) in query(path, f"{' UNION ALL '.join(violations)} LIMIT 1", ()):
            table, constraint = constraints[int(str(number))]
            raise _DamagedError(f"a row of {table} violates {constraint}")
        return True
    if isinstance(version, int) and 0 <= version < SCHEMA_VERSION:
        return False  # the next run that writes begins a new file
    raise _other_version(version)


def _version(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA user_version").fetchone()
    return row[0]


def _application_id(connection: sqlite3.Connection) -> int:
    row: tuple[int] = connection.execute("PRAGMA application_id").fetchone()
    return row[0]


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows: list[tuple[str]] = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {name for (name,) in rows}


def _schema_of(connection: sqlite3.Connection) -> list[Row]:
    return connection.execute(_READ_SCHEMA).fetchall()


@cache
def _constraints() -> list[tuple[str, str]]:
    """Return the constraints of the schema by table: SQLite does not check them in a file that is only read."""
    lines = [(statement.partition("CREATE TABLE ")[2].partition(" ")[0], statement.splitlines()) for statement in _SCHEMA.split(";")]
    found = [(table, re.search(r" CHECK \((.+)\),?$", line)) for table, statement in lines for line in statement]
    return [(table, match[1]) for table, match in found if match]


@cache
def _schema() -> list[Row]:
    """Return the schema of a file of the current version, as SQLite stores it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema_of(connection)


def _is_damage(error: sqlite3.Error, path: Path | None = None) -> bool:
    """Whether an error is one of the content of the file, and not of access, space or locks."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in _DAMAGE:
        return True
    # A wrong version of the format in the header makes a file read-only (sqlite.org/fileformat.html).
    return code == sqlite3.SQLITE_READONLY and path is not None and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code, without SQLite's extension of it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _replace(directory: Path, inode: int, seconds: int, damage: str) -> None:
    """Rename a damaged file with its log, and begin a new one with its undelivered events.

    Of several runs that find the damage at once, one does this: the others see another inode.
    """
    deadline = time.monotonic() + _BUSY_SECS
    while True:
        with exclusive_lock(directory) as is_held:
            if is_held:
                if (directory / FILE).lstat().st_ino == inode:
                    _begin_anew(directory, seconds, damage)
                return
        if time.monotonic() > deadline:
            raise StateUnavailableError(f"the state in {directory} is damaged, and another run holds its lock")
        time.sleep(_RETRY_SECS)


def _begin_anew(directory: Path, seconds: int, damage: str) -> None:
    path = directory / FILE
    events, is_complete = _read_events(path)
    aside = _free_name(directory, seconds)
    for suffix in (*COMPANIONS, ""):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", directory / f"{aside}{suffix}")
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
    """Return the intact rows of the outbox in order, up to the first unreadable one, and if these are all.

    The rows are those of any version: each is a dictionary by column. An older version has no
    checksums. Without the columns that say where an event goes, it is not recovered.
    """
    events: list[dict[str, object]] = []
    is_complete = True
    end = time.monotonic() + _RECOVERY_SECS
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
            connection.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
            is_older = 0 < _version(connection) < SCHEMA_VERSION
            # The table may be intact where an index is not.
            cursor = connection.execute("SELECT * FROM outbox NOT INDEXED ORDER BY rowid")
            columns = [name for name, *_ in cursor.description]
            for row in cursor:
                event = dict(zip(columns, row, strict=True))
                values = [event.get(name) for name in _CHECKED]
                event.setdefault("checksum", checksum(values) if is_older else None)
                if None not in values and event["checksum"] == checksum(values):
                    events.append(event)
                else:
                    is_complete = False
    except (sqlite3.Error, UnicodeDecodeError):
        return events, False
    return events, is_complete


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
