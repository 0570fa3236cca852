"""The outbox: events that were raised and have not arrived yet, in the order in which they were raised."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from arawn_cli.parcels import Parcel
from arawn_cli.state import State

_COLUMNS = "sequence, attempts, answer, event_id, type, time, source, body, scope, level"
_Row = tuple[int, int, str | None, str, str, str, str, bytes, str, str]


class Worth(IntEnum):
    """What is dropped first when the outbox is full, lowest first."""

    REPEAT = 0
    REPORT = 1
    TRANSITION = 2


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event in the outbox. `answer` is what a relay said when it refused the event, else None."""

    sequence: int
    attempts: int
    answer: str | None
    parcel: Parcel


@dataclass(frozen=True, slots=True)
class Contents:
    """How many events wait, and how many of them a relay has refused."""

    waiting: int
    refused: int


class Outbox:
    """The outbox of a state file, of at most `limit` events."""

    def __init__(self, state: State, limit: int) -> None:
        self._state = state
        self._limit = limit

    def add(self, parcel: Parcel) -> list[Parcel]:
        """Stores an event behind all others, and answers with those that had to go for it.

        Raises:
            StateUnavailableError: it is not stored.
        """
        with self._state.transaction() as connection:
            return put(connection, parcel, self._limit)

    def next(self, after: int, count: int) -> list[Waiting]:
        """The first `count` events past a sequence number.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        with self._state.reading() as connection:
            rows: list[_Row] = connection.execute(
                f"SELECT {_COLUMNS} FROM outbox WHERE sequence > ? ORDER BY sequence LIMIT ?",  # noqa: S608
                (after, count),
            ).fetchall()
        return [_waiting(row) for row in rows]

    def remove(self, batch: Sequence[Waiting]) -> None:
        """Forgets events that have arrived.

        Raises:
            StateUnavailableError: they are still there, and would be sent again.
        """
        with self._state.transaction() as connection:
            connection.executemany("DELETE FROM outbox WHERE sequence = ?", [(waiting.sequence,) for waiting in batch])

    def refuse(self, waiting: Waiting, answer: str) -> None:
        """Notes that a relay refused an event, and what it said.

        Raises:
            StateUnavailableError: it is not noted.
        """
        with self._state.transaction() as connection:
            connection.execute("UPDATE outbox SET attempts = attempts + 1, answer = ? WHERE sequence = ?", (answer, waiting.sequence))

    def tried(self, batch: Sequence[Waiting]) -> None:
        """Notes that events were tried in vain.

        Raises:
            StateUnavailableError: it is not noted.
        """
        with self._state.transaction() as connection:
            numbers = [(waiting.sequence,) for waiting in batch]
            connection.executemany("UPDATE outbox SET attempts = attempts + 1 WHERE sequence = ?", numbers)

    def contents(self) -> Contents:
        """What is in it.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        with self._state.reading() as connection:
            row: tuple[int, int] = connection.execute("SELECT count(*), count(answer) FROM outbox").fetchone()
        return Contents(*row)


def put(connection: sqlite3.Connection, parcel: Parcel, limit: int) -> list[Parcel]:
    """Stores an event in a transaction that is under way, so that it stands or falls with what else is in it.

    Answers with the events that were dropped for it: the oldest of those that matter least, which may be the event itself.
    """
    connection.execute(
        "INSERT INTO outbox (event_id, type, time, source, scope, level, worth, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            parcel.event_id,
            parcel.type,
            parcel.time,
            parcel.source,
            parcel.scope,
            parcel.level,
            _worth(connection, parcel),
            parcel.body,
        ),
    )
    count: tuple[int] = connection.execute("SELECT count(*) FROM outbox").fetchone()
    if count[0] <= limit:
        return []
    rows: list[_Row] = connection.execute(
        f"SELECT {_COLUMNS} FROM outbox ORDER BY worth, sequence LIMIT ?",  # noqa: S608
        (count[0] - limit,),
    ).fetchall()
    connection.executemany("DELETE FROM outbox WHERE sequence = ?", [(row[0],) for row in rows])
    return [_waiting(row).parcel for row in rows]


def _worth(connection: sqlite3.Connection, parcel: Parcel) -> Worth:
    """A pressure whose scope already has the same level waiting tells a reader nothing new."""
    if not parcel.scope:
        return Worth.REPORT
    query = "SELECT level FROM outbox WHERE scope = ? AND scope <> '' ORDER BY sequence DESC LIMIT 1"
    row: tuple[str] | None = connection.execute(query, (parcel.scope,)).fetchone()
    return Worth.REPEAT if row is not None and row[0] == parcel.level else Worth.TRANSITION


def _waiting(row: _Row) -> Waiting:
    sequence, attempts, answer, event_id, kind, time, source, body, scope, level = row
    return Waiting(sequence, attempts, answer, Parcel(event_id, kind, time, source, body, scope, level))
