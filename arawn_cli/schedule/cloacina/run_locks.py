"""One at a time, across every machine of a database.

The BSD locks of the jobs do not reach across machines: NFS has none for directories. So where machines share a PostgreSQL, a run holds
an advisory lock there, which the server gives back when the machine is gone. With SQLite all runs are on one machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from arawn_cli.schedule.cloacina.engine import EngineError, postgres_driver
from arawn_cli.schedule.cloacina.schedules import Connection, EngineDatabase

_TRY = "SELECT pg_try_advisory_lock(%s)"


_WAIT = "SELECT pg_advisory_lock(%s)"


_ALIVE = "SELECT 1"


class Claim(Protocol):
    """What a run holds while it is at work."""

    def is_held(self) -> bool:
        """Whether it still is; a claim that is lost may be another machine's at once."""
        ...


class _Sure:
    def is_held(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class _OnServer:
    connection: Connection

    def is_held(self) -> bool:
        try:
            self.connection.execute(_ALIVE).fetchall()
        except postgres_driver().Error:
            return False
        return True


@contextmanager
def claimed(database: EngineDatabase, name: str) -> Iterator[Claim | None]:
    """The claim of a name while the context lasts; None where another machine has it.

    Raises:
        EngineError: the database cannot be reached.
    """
    if database.file is not None:
        yield _Sure()
        return
    with closing(database.connect()) as connection:
        ((taken,),) = _asked(database, connection, _TRY, name)
        yield _OnServer(connection) if taken else None


@contextmanager
def one_registers(database: EngineDatabase) -> Iterator[None]:
    """Waits until no other process changes the schedules of a database, and keeps others from it.

    Raises:
        EngineError: the database cannot be reached.
    """
    if database.file is None:
        with closing(database.connect()) as connection:
            _asked(database, connection, _WAIT, "")
            yield
        return
    descriptor = os.open(f"{database.file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _asked(database: EngineDatabase, connection: Connection, statement: str, name: str) -> list[tuple[object, ...]]:
    try:
        return connection.execute(statement, (_key(name),)).fetchall()
    except postgres_driver().Error as error:
        raise EngineError(f"the database {database} gives no lock: {database.without_secrets(' '.join(str(error).split()))}") from error


def _key(name: str) -> int:
    """The signed 64-bit number of a lock; those of other programs in the same database have other names."""
    return int.from_bytes(hashlib.sha256(f"arawn-cli\0{name}".encode()).digest()[:8], "big", signed=True)
