"""Keep levels, history, runs and the outbox in an SQLite file, `state.db`.

A file of an older version is treated like a damaged one: it is renamed, a new file is begun, and
the undelivered events are copied into it. Only they cannot be obtained again: levels, history and
sizes come back with the next checks. A file of a newer version, or of another program, is left
alone.
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
from shutil import copyfile
from typing import Any

from arawn_cli.errors import StateUnavailableError
from arawn_cli.locks import check_private_directory, make_private_directory, try_lock
from arawn_cli.sqlite import COMPANIONS, LONGEST_OWN_VALUE, DatabaseUnreadableError, Signature, signature
from arawn_cli.state_file import (
    BUSY_SECS,
    CHECKED,
    FILE,
    RETRY_SECS,
    SCHEMA_VERSION,
    DamagedError,
    OlderError,
    checksum,
    connect,
    connect_again,
    copy_in_memory,
    is_damage,
    primary_code,
    version_of,
)

log = logging.getLogger(__name__)

_RECOVERY_SECS = 10.0
_PROGRESS_STEPS = 10_000  # of SQLite's virtual machine, about a millisecond

_NO_ACCESS = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_SUFFIXES = ("", *COMPANIONS)
_MOVED = f"{FILE}.replaced"  # the name of a damaged file until its events are copied
_REMEDY = " (name another directory with [maintenance] state_dir, or run arawn-cli doctor)"


def key_of(root: Path) -> str:
    """Return the text by which the file identifies a root. Bytes that are not UTF-8 are escaped."""
    return os.fsencode(root).decode("utf-8", "backslashreplace")


class State:
    """The state file of one run. It is opened at the first use, with one connection for all uses.

    Until then it is read from a copy in memory, which changes nothing on disk.

    Another run may find that the open file is damaged, and set it aside. So a transaction first
    opens the new file if the open one has lost its name, and fails if that happens meanwhile. The
    other run copies the events after the renaming: those of every transaction that succeeded.

    No second descriptor of the file may be opened while that connection is open. Closing it would
    release the locks that the process holds on the file (fcntl(2)), and another run could then
    delete the write-ahead log (sqlite.org/howtocorrupt.html).
    """

    def __init__(self, directory: Path, clock: Callable[[], int]) -> None:
        """`clock`, in nanoseconds, gives the time in the name of a file that is set aside."""
        self.directory = directory
        self._clock = clock
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._copy: sqlite3.Connection | None = None
        self._copied: Signature | None = None

    @classmethod
    def in_memory(cls) -> State:
        """Return an empty state with the same tables that ends with the process."""
        state = cls(Path(":memory:"), time.time_ns)
        state._connection = connect(state.directory)
        return state

    def open(self) -> None:
        """Open the file, which replaces a damaged one.

        Raises:
            StateUnavailableError: it cannot be opened.
        """
        with _translating_errors(self.directory):
            self._open()

    def close(self) -> None:
        """Close the file. The next use opens it again."""
        for connection in (self._connection, self._copy):
            if connection is not None:
                connection.close()
        self._connection = self._copy = self._copied = None
        self._inode = 0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection and commit at the end of the block, or roll back if the block raises.

        If it finds that the file is damaged, or that another run has set it aside, it fails, and
        the next use has a new file. In the second case the new file may have its events already.

        Raises:
            StateUnavailableError: the file cannot be written (full disk, read-only, busy, damaged),
                or was set aside.
        """
        with self._replacing_damage():
            connection = self._open()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:  # whatever ends the block, the transaction ends with it
                # SQLite rolls back by itself after a full disk or an I/O error. A damaged file was
                # replaced.
                if connection is self._connection and connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            if self._was_set_aside():
                raise StateUnavailableError(f"the state in {self.directory} was set aside or removed meanwhile")

    def _was_set_aside(self) -> bool:
        """Whether the open file has lost its name, because of damage or because it was removed.

        It counts as in place if that is unknown.
        """
        if not self._inode:
            return False
        try:
            return (self.directory / FILE).lstat().st_ino != self._inode
        except OSError as error:
            return error.errno == errno.ENOENT

    @contextmanager
    def _replacing_damage(self) -> Iterator[None]:
        """Replace the open file if a statement in the block finds that it is damaged."""
        with _translating_errors(self.directory):
            try:
                yield
            except sqlite3.Error as error:
                inode = self._inode
                if inode and is_damage(error):
                    self.close()
                    _replace(self.directory, inode, self._seconds(), str(error))
                raise

    def select(self, statement: str, parameters: tuple[str | int, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of a query, also within a transaction. The schema gives their types.

        A file that is not open, or was set aside, is read without changing anything on disk. The
        result is empty without a file, and for one of an older version.

        Raises:
            StateUnavailableError: the file cannot be read, or is damaged.
        """
        with self._replacing_damage():
            if self._connection is not None and not self._connection.in_transaction and self._was_set_aside():
                self.close()
            connection = self._connection or self._current_copy()
            return connection.execute(statement, parameters).fetchall() if connection else []

    def _current_copy(self) -> sqlite3.Connection | None:
        """Return a copy of the file as it is now, or None if there is none of this version."""
        path = self.directory / FILE
        current = signature(path)
        if self._copied != current:
            self.close()
            try:
                self._copy = copy_in_memory(path)
            except OlderError:
                self._copy = None  # the next run that writes begins a new file
            except DatabaseUnreadableError as error:
                raise StateUnavailableError(str(error)) from error
            self._copied = current
        return self._copy

    def checkpoint(self) -> None:
        """Write committed transactions to the disk, so that they survive a power cut.

        Raises:
            StateUnavailableError: the write fails.
        """
        with _translating_errors(self.directory):
            self._open().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._was_set_aside():
            self.close()  # the copy, or a file that was set aside
            make_private_directory(self.directory)
            _set_aside_what_is_no_file(self.directory, self._seconds())
            if _is_replaced_in_part(self.directory):
                _replace(self.directory, 0, self._seconds(), "a run was ended while it replaced it")
            self._inode = _make_private(self.directory)
            try:
                self._connection = connect_again(self.directory / FILE)
            except DamagedError as error:
                _replace(self.directory, self._inode, self._seconds(), str(error))
                self._inode = _make_private(self.directory)
                self._connection = connect(self.directory / FILE)
        return self._connection

    def _seconds(self) -> int:
        return self._clock() // 1_000_000_000


@contextmanager
def _translating_errors(directory: Path) -> Iterator[None]:
    """Raise errors of SQLite and of the system as `StateUnavailableError` with one line of text."""
    try:
        yield
    except sqlite3.Error as error:
        remedy = _REMEDY if primary_code(error) in _NO_ACCESS else ""
        raise StateUnavailableError(f"the state in {directory} cannot be used: {error}{remedy}") from error
    except DamagedError as error:
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
    with _translating_errors(directory):
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
    with _translating_errors(directory):
        check_private_directory(directory)
        _check_files(directory)


def _check_files(directory: Path) -> None:
    """Refuse links, special files, and files of another account. None is opened: see `State`."""
    for path in (directory / f"{FILE}{suffix}" for suffix in _SUFFIXES):
        with suppress(FileNotFoundError):
            status = path.lstat()
            if _is_no_file(status):
                raise StateUnavailableError(f"{path} is not a regular file with one name: remove it, or name another state_dir")
            if status.st_uid != os.geteuid():
                raise StateUnavailableError(f"{path} belongs to another account: remove it, or name another state_dir")


def _is_no_file(status: os.stat_result) -> bool:
    """Whether something is a link, a directory or a special file, or has several names."""
    return not stat.S_ISREG(status.st_mode) or status.st_nlink > 1


def _set_aside_what_is_no_file(directory: Path, seconds: int) -> None:
    """Rename anything else of this account with the name of the file or of its journals.

    A file with several names is copied: a backup program may have made the others.
    """
    for suffix in _SUFFIXES:
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
    name = f"{FILE}.damaged-{seconds}"
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in names if taken.isdisjoint(f"{name}{suffix}" for suffix in _SUFFIXES))


def _make_private(directory: Path) -> int:
    """Create the file with mode 600, or correct the mode of an existing one. Return its inode.

    SQLite gives the mode of the file to its log and index.
    """
    path = directory / FILE
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    _check_files(directory)
    status = path.lstat()
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(0o600)
    return status.st_ino


def _replace(directory: Path, inode: int, seconds: int, damage: str) -> None:
    """Rename a damaged file with its log, and begin a new one with its undelivered events.

    Of several runs that find the damage at once, one does this: the others see another inode.
    """
    deadline = time.monotonic() + BUSY_SECS
    while True:
        with exclusive_lock(directory) as is_held:
            if is_held:
                if _is_replaced_in_part(directory) or (directory / FILE).lstat().st_ino == inode:
                    _begin_anew(directory, seconds, damage)
                return
        if time.monotonic() > deadline:
            raise StateUnavailableError(f"the state in {directory} is damaged, and another run holds its lock")
        time.sleep(RETRY_SECS)


def _is_replaced_in_part(directory: Path) -> bool:
    """Whether a run has begun to replace the file, and has not copied its events yet."""
    return any(os.path.lexists(directory / f"{_MOVED}{suffix}") for suffix in _SUFFIXES)


def _begin_anew(directory: Path, seconds: int, damage: str) -> None:
    """Replace the file, or complete this if a run was killed, or found the disk full, meanwhile."""
    path, moved = directory / FILE, directory / _MOVED
    if not os.path.lexists(moved):
        _rename(path, moved)
    events, is_complete = _read_events(moved)  # after the renaming: see `State`
    _make_private(directory)
    try:
        with closing(connect(path)) as connection:
            copied = _copy_events(connection, events)
    except DamagedError:  # the new file is damaged, too, and the next use replaces it
        copied = 0
    aside = _free_name(directory, seconds)
    _rename(moved, directory / aside)
    lost = "" if is_complete and copied == len(events) else ", others may be lost"
    text = "the state file %s cannot be used (%s): renamed to %s; began a new one with %d undelivered events%s"
    log.warning(text, path, damage, aside, copied, lost)


def _rename(path: Path, to: Path) -> None:
    """Rename the file with its journals. It is the last one: without it, the journals are moved."""
    for suffix in (*COMPANIONS, ""):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{to}{suffix}")


def _read_events(path: Path) -> tuple[list[dict[str, object]], bool]:
    """Return the intact rows of the outbox in order, and whether these are all.

    The rows are those of any version: each is a dictionary by column. An older version has no
    checksums. Without the columns that say where an event goes, it is not recovered.
    """
    events: list[dict[str, object]] = []
    is_complete = True
    end = time.monotonic() + _RECOVERY_SECS
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_OWN_VALUE)
            connection.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
            connection.row_factory = sqlite3.Row
            is_older = 0 < version_of(connection) < SCHEMA_VERSION
            # The table may be intact where an index is not.
            for event in map(dict, connection.execute("SELECT * FROM outbox NOT INDEXED ORDER BY rowid")):
                values = [event.get(name) for name in CHECKED]
                event.setdefault("checksum", checksum(values) if is_older else None)
                if None not in values and event["checksum"] == checksum(values):
                    events.append(event)
                else:
                    is_complete = False
    except (sqlite3.Error, UnicodeDecodeError):
        is_complete = False
    return events, is_complete


def _copy_events(connection: sqlite3.Connection, events: list[dict[str, object]]) -> int:
    """Insert rows of another outbox, and return the number of those that fit its columns."""
    known = [name for _, name, *_ in connection.execute("PRAGMA table_info(outbox)") if name != "sequence"]
    copied = 0
    connection.execute("BEGIN IMMEDIATE")
    for event in events:
        if "worth" in event:  # the name of this column up to version 5
            event["drop_priority"] = event["worth"]
        columns = [name for name in known if name in event]
        statement = f"INSERT INTO outbox ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - names of columns
        with suppress(sqlite3.IntegrityError):
            connection.execute(statement, [event[name] for name in columns])
            copied += 1
    connection.execute("COMMIT")
    return copied
