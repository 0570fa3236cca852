"""The state file: what must survive from one run to the next, in SQLite.

Each commit is written to the write-ahead log at once, which a killed process cannot take back, and
reaches the disk with `settle`, which a power cut cannot take back.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from arawn_cli.database import DatabaseUnreadableError, query
from arawn_cli.schema import MIGRATIONS
from arawn_cli.state_file import FILE, StateUnavailableError, is_corrupt, open_file, set_aside, told

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
