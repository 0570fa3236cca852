"""Keep undelivered events and notifications in the order in which they were raised."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from enum import IntEnum
from typing import cast

from arawn_cli.delivery.message import OutgoingEvent
from arawn_cli.state import State
from arawn_cli.state_file import checksum
from arawn_cli.timestamps import DAY


class DropPriority(IntEnum):
    """Order in which a full outbox drops events, lowest first.

    Parked ones are not sent any more, because the relay has refused them for good.
    """

    PARKED = -1
    REPEAT = 0
    REPORT = 1
    TRANSITION = 2


# During a run the outbox may hold this many times its limit: most events leave it at the end.
_SURPLUS = 2

# Both name the columns of an event in the order of the fields of `OutgoingEvent`.
_READ = "SELECT sequence, answer, refusals, refused_at, event_id, type, time, source, body, scope, level FROM outbox"
_WRITE = (
    "INSERT INTO outbox (event_id, type, time, source, body, scope, level, target, root, drop_priority, answer, refusals, checksum) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
)

NOTIFY = "notify:"
"""Prefix of the targets of notifications. The address itself is a secret, and is never stored."""

IS_NOTIFY = f"(target GLOB '{NOTIFY}*')"
"""The condition in SQL for events that are notifications."""

COUNT_FOR_RELAYS = f"SELECT count(*) FROM outbox WHERE NOT {IS_NOTIFY} AND drop_priority <> {DropPriority.PARKED:d}"  # noqa: S608 - constants

Row = tuple[int, str | None, int, int | None, str, str, str, str, bytes, str, str]

_REFUSALS_MAX = 100
_REFUSED_MAX = DAY


@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """An event in the outbox.

    Attributes:
        answer: of the relay to the last attempt that it refused, else None.
        refusals: how often it has refused the event.
        refused_at: when it first did, in nanoseconds since the epoch.
    """

    sequence: int
    answer: str | None
    refusals: int
    refused_at: int | None
    event: OutgoingEvent

    def refused(self, answer: str, now: int) -> tuple[QueuedEvent, bool]:
        """Return the event after one more refusal, and whether it is to be parked.

        It is if it has been refused often enough, or for long enough.
        """
        first = now if self.refused_at is None else self.refused_at
        refused = replace(self, answer=answer, refusals=self.refusals + 1, refused_at=first)
        return refused, refused.refusals >= _REFUSALS_MAX or now - first >= _REFUSED_MAX


READ_PARKED = f"{_READ} WHERE drop_priority = {DropPriority.PARKED:d} ORDER BY sequence"
"""The events of all targets that are not sent any more, for `queued_event`."""


@dataclass(slots=True)
class Outbox:
    """The outbox of a state file, as far as it is for one target.

    Attributes:
        limit: how many events may be left after a run, for all relays together, and how many
            notifications: neither displaces the other.
        target: empty for the configured relay, `NOTIFY` and a number for an address of
            notifications.
        root: the root of the events; scopes of two roots have the same names.
    """

    state: State
    limit: int
    target: str = ""
    root: str = ""
    _size: int | None = field(default=None, init=False)

    def add(self, connection: sqlite3.Connection, events: Sequence[OutgoingEvent], answer: str | None = None) -> None:
        """Store events behind all others, in a transaction of the state file.

        `answer` is the relay's answer if it has refused them. Nothing is dropped here, since the
        transaction may still fail.

        Raises:
            sqlite3.Error: as the transaction reports it.
        """
        for event in events:
            values = (*astuple(event), self.target, self.root)
            connection.execute(_WRITE, (*values, self._priority(connection, event), answer, int(answer is not None), checksum(values)))
        if self._size is not None:
            self._size += len(events)

    def append(self, event: OutgoingEvent, answer: str | None = None) -> list[OutgoingEvent]:
        """Store one event in a separate transaction; see `add`.

        Return the events that were dropped because the outbox holds far more than its limit.

        Raises:
            StateUnavailableError: it is not stored.
        """
        with self.state.transaction() as connection:
            self.add(connection, [event], answer)
            # The table is counted once per run, and again before anything is dropped: `_size` is
            # too high if a transaction was rolled back or another process removed events.
            if self._size is None:
                self._size = self._count(connection)
            if self._size <= self.limit * _SURPLUS:
                return []
            dropped = self._drop_excess(connection, self.limit * _SURPLUS)
            self._size = self._count(connection)
            return dropped

    def trim(self) -> list[OutgoingEvent]:
        """Drop events above the limit, least important and oldest first, and return them.

        Raises:
            StateUnavailableError: nothing is dropped.
        """
        with self.state.transaction() as connection:
            return self._drop_excess(connection, self.limit)

    def next(self, after: int, count: int) -> list[QueuedEvent]:
        """Return `count` events to send past a sequence number, also from a read-only file.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        statement = f"{_READ} WHERE sequence > ? AND target = ? AND drop_priority <> ? ORDER BY sequence LIMIT ?"
        rows = self.state.select(statement, (after, self.target, DropPriority.PARKED, count))
        return [queued_event(cast("Row", row)) for row in rows]

    def remove(self, events: Sequence[QueuedEvent]) -> None:
        """Remove delivered events.

        Raises:
            StateUnavailableError: they are still there, and would be sent again.
        """
        with self.state.transaction() as connection:
            connection.executemany("DELETE FROM outbox WHERE event_id = ?", [(queued.event.event_id,) for queued in events])

    def record_refusal(self, refused: QueuedEvent, *, parked: bool) -> None:
        """Store the answer to a refused event, and when it was refused first; park it if asked.

        Raises:
            StateUnavailableError: nothing is recorded.
        """
        statement = (
            "UPDATE outbox SET answer = ?, refusals = ?, refused_at = ?, drop_priority = iif(?, ?, drop_priority) WHERE event_id = ?"
        )
        values = (refused.answer, refused.refusals, refused.refused_at, parked, DropPriority.PARKED, refused.event.event_id)
        with self.state.transaction() as connection:
            connection.execute(statement, values)

    def counts(self) -> tuple[int, int]:
        """Return how many events are to be sent, and how many of them the relay has refused.

        Raises:
            StateUnavailableError: the file cannot be read.
        """
        statement = "SELECT count(*), count(answer) FROM outbox WHERE target = ? AND drop_priority <> ?"
        rows = self.state.select(statement, (self.target, DropPriority.PARKED))
        return cast("tuple[int, int]", rows[0]) if rows else (0, 0)

    def _priority(self, connection: sqlite3.Connection, event: OutgoingEvent) -> DropPriority:
        """Return how important an event is: a repeat has the last level queued for its scope."""
        if not event.scope:
            return DropPriority.REPORT
        query = (  # the condition scope <> '' is that of the index
            "SELECT level FROM outbox WHERE scope = ? AND scope <> '' AND root = ? AND target = ? AND drop_priority <> ? "
            "ORDER BY sequence DESC LIMIT 1"
        )
        values = (event.scope, self.root, self.target, DropPriority.PARKED)
        row: tuple[str] | None = connection.execute(query, values).fetchone()
        return DropPriority.REPEAT if row is not None and row[0] == event.level else DropPriority.TRANSITION

    @property
    def is_notify(self) -> bool:
        """Whether the target is an address of notifications."""
        return self.target.startswith(NOTIFY)

    @property
    def noun(self) -> str:
        """Its content, as logs name it."""
        return "notification" if self.is_notify else "event"

    def _count(self, connection: sqlite3.Connection) -> int:
        statement = f"SELECT count(*) FROM outbox WHERE {IS_NOTIFY} = ?"  # noqa: S608 - a constant
        ((number,),) = connection.execute(statement, (self.is_notify,)).fetchall()
        return cast("int", number)

    def _drop_excess(self, connection: sqlite3.Connection, limit: int) -> list[OutgoingEvent]:
        excess = self._count(connection) - limit
        if excess <= 0:
            return []
        statement = f"{_READ} WHERE {IS_NOTIFY} = ? ORDER BY drop_priority, sequence LIMIT ?"
        rows: list[Row] = connection.execute(statement, (self.is_notify, excess)).fetchall()
        connection.executemany("DELETE FROM outbox WHERE sequence = ?", [(row[0],) for row in rows])
        return [queued_event(row).event for row in rows]


def retry_parked(state: State) -> int:
    """Have the next runs send all parked events again; return their number.

    Raises:
        StateUnavailableError: they stay parked.
    """
    with state.transaction() as connection:
        again = "UPDATE outbox SET answer = NULL, refusals = 0, refused_at = NULL, drop_priority = ? WHERE drop_priority = ?"
        return connection.execute(again, (DropPriority.TRANSITION, DropPriority.PARKED)).rowcount


def drop_parked(state: State) -> int:
    """Delete all parked events; return their number.

    Raises:
        StateUnavailableError: they are still there.
    """
    with state.transaction() as connection:
        return connection.execute("DELETE FROM outbox WHERE drop_priority = ?", (DropPriority.PARKED,)).rowcount


def queued_event(row: Row) -> QueuedEvent:
    """Return the event of a row with the columns of `READ_PARKED`."""
    return QueuedEvent(*row[:4], OutgoingEvent(*row[4:]))
