"""The outbox: events that were raised and have not arrived yet, in the order in which they were raised."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar, cast

from arawn_cli.delivery.message import Parcel
from arawn_cli.state import State

Result = TypeVar("Result")


# How far a run may go over the limit until its end, when what did not arrive is cut down to the limit.
_SURPLUS = 2


_READ = "SELECT sequence, attempts, answer, event_id, type, time, source, body, scope, level FROM outbox"


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
    """How many events wait, how many of them a relay has refused, and which is the first."""

    waiting: int
    refused: int
    first: Waiting | None


@dataclass(frozen=True, slots=True)
class Outbox:
    """The part of a state file's outbox that is for one relay.

    Attributes:
        limit: how many events may wait, for all relays together, when a run is over.
        target: which relay: empty for the configured one.
        root: which root the events tell of; the scopes of two roots have the same names.
    """

    state: State
    limit: int
    target: str = ""
    root: str = ""

    def add(self, parcel: Parcel, answer: str | None = None) -> list[Parcel]:
        """Stores an event behind all others, with the relay's refusal if there was one, and answers as `put`.

        Raises:
            StateUnavailableError: it is not stored.
        """

        def change(connection: sqlite3.Connection) -> list[Parcel]:
            return self.put(connection, parcel, answer)

        return self._change(change)

    def put(self, connection: sqlite3.Connection, parcel: Parcel, answer: str | None = None) -> list[Parcel]:
        """Stores an event in a transaction that is under way, so that it stands or falls with what else is in it.

        The limit holds for what is left when a run is over, since most of it is on its way in a moment. Only far above it, events are
        dropped, and are the answer.
        """
        p = parcel
        connection.execute(
            "INSERT INTO outbox (event_id, type, time, source, scope, level, drop_priority, body, answer, target, root) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (p.event_id, p.type, p.time, p.source, p.scope, p.level, self._worth(connection, p), p.body, answer, self.target, self.root),
        )
        return _cut(connection, self.limit * _SURPLUS)

    def trim(self) -> list[Parcel]:
        """Cuts the outbox down to its limit, and answers with what was dropped: the oldest of those that matter least.

        Raises:
            StateUnavailableError: nothing is dropped.
        """
        return self._change(lambda connection: _cut(connection, self.limit))

    def next(self, after: int, count: int) -> list[Waiting]:
        """The first `count` events past a sequence number, also from a file that cannot be written.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        statement = f"{_READ} WHERE sequence > ? AND target = ? ORDER BY sequence LIMIT ?"
        return [_waiting(cast("_Row", row)) for row in self.state.select(statement, (after, self.target, count))]

    def remove(self, sequences: Sequence[int]) -> None:
        """Forgets events that have arrived.

        Raises:
            StateUnavailableError: they are still there, and would be sent again.
        """
        numbers = [(sequence,) for sequence in sequences]
        self._change(lambda connection: connection.executemany("DELETE FROM outbox WHERE sequence = ?", numbers))

    def refuse(self, waiting: Waiting, answer: str) -> None:
        """Notes that a relay refused an event, and what it said.

        Raises:
            StateUnavailableError: it is not noted.
        """
        statement = "UPDATE outbox SET attempts = attempts + 1, answer = ? WHERE sequence = ?"
        self._change(lambda connection: connection.execute(statement, (answer, waiting.sequence)))

    def tried(self, batch: Sequence[Waiting]) -> None:
        """Notes that events were tried in vain.

        Raises:
            StateUnavailableError: it is not noted.
        """
        numbers = [(waiting.sequence,) for waiting in batch]
        self._change(lambda connection: connection.executemany("UPDATE outbox SET attempts = attempts + 1 WHERE sequence = ?", numbers))

    def contents(self) -> Contents:
        """What is in it.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        rows = self.state.select("SELECT count(*), count(answer) FROM outbox WHERE target = ?", (self.target,))
        first = self.next(0, 1)
        waiting, refused = cast("tuple[int, int]", rows[0]) if rows else (0, 0)
        return Contents(waiting, refused, first[0] if first else None)

    def _worth(self, connection: sqlite3.Connection, parcel: Parcel) -> Worth:
        """A pressure whose scope already has the same level waiting tells a reader nothing new."""
        if not parcel.scope:
            return Worth.REPORT
        query = "SELECT level FROM outbox WHERE scope = ? AND scope <> '' AND root = ? AND target = ? ORDER BY sequence DESC LIMIT 1"
        row: tuple[str] | None = connection.execute(query, (parcel.scope, self.root, self.target)).fetchone()
        return Worth.REPEAT if row is not None and row[0] == parcel.level else Worth.TRANSITION

    def _change(self, change: Callable[[sqlite3.Connection], Result]) -> Result:
        with self.state.transaction() as connection:
            return change(connection)


def _cut(connection: sqlite3.Connection, limit: int) -> list[Parcel]:
    count: tuple[int] = connection.execute("SELECT count(*) FROM outbox").fetchone()
    if count[0] <= limit:
        return []
    rows: list[_Row] = connection.execute(f"{_READ} ORDER BY drop_priority, sequence LIMIT ?", (count[0] - limit,)).fetchall()
    connection.executemany("DELETE FROM outbox WHERE sequence = ?", [(row[0],) for row in rows])
    return [_waiting(row).parcel for row in rows]


def _waiting(row: _Row) -> Waiting:
    sequence, attempts, answer, event_id, kind, time, source, body, scope, level = row
    return Waiting(sequence, attempts, answer, Parcel(event_id, kind, time, source, body, scope, level))
