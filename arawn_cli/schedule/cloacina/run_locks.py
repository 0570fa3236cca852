"""Lock a database across all machines that share it.

The jobs' own locks (flock) do not work across machines: NFS has none for directories. Machines
that share a PostgreSQL take an advisory lock there, which the server releases when the connection
is gone. An SQLite database belongs to one machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from arawn_cli.schedule.cloacina.schedules import Connection, EngineDatabase, EngineError, postgres_driver

_TRY = "SELECT pg_try_advisory_lock(%s)"
_WAIT = "SELECT pg_advisory_lock(%s)"


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock by the connection that holds it. None with SQLite: the job's own lock suffices."""

    connection: Connection | None

    def is_held(self) -> bool:
        """Return whether the server still answers. If not, another machine may have the lock."""
        if self.connection is None:
            return True
        try:
            self.connection.execute("SELECT 1").fetchall()
        except postgres_driver().Error:
            return False
        return True


@contextmanager
def advisory_lock(database: EngineDatabase, name: str) -> Iterator[Lock | None]:
    """Hold the lock of a name; None if another machine holds it.

    Raises:
        EngineError: the database cannot be reached.
    """
    if database.file is not None:
        yield Lock(None)
        return
    with closing(database.connect()) as connection:
        ((taken,),) = _execute(database, connection, _TRY, name)
        yield Lock(connection) if taken else None


@contextmanager
def registration_lock(database: EngineDatabase) -> Iterator[None]:
    """Wait until no other process creates tables or changes schedules, and hold the lock for both.

    Raises:
        EngineError: the database cannot be reached.
    """
    if database.file is None:
        with closing(database.connect()) as connection:
            _execute(database, connection, _WAIT, "")
            yield
        return
    descriptor = os.open(f"{database.file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _execute(database: EngineDatabase, connection: Connection, statement: str, name: str) -> list[tuple[object, ...]]:
    # A signed 64-bit number, which differs from those of other programs in the same database.
    key = int.from_bytes(hashlib.sha256(f"arawn-cli\0{name}".encode()).digest()[:8], "big", signed=True)
    try:
        return connection.execute(statement, (key,)).fetchall()
    except postgres_driver().Error as error:
        raise EngineError(f"cannot take a lock in the database {database}: {database.without_secrets(error)}") from error
