"""Events that can still be read in a damaged state file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

# The columns of every version; those that came later have defaults.
# Not through an index: the table itself may be whole where an index is not.
_READ = "SELECT event_id, type, time, source, scope, level, worth, body FROM outbox NOT INDEXED ORDER BY rowid"
_WRITE = "INSERT INTO outbox (event_id, type, time, source, scope, level, worth, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

_Row = tuple[object, ...]


def salvaged(path: Path) -> tuple[list[_Row], bool]:
    """The rows of the outbox in their order, from its beginning as far as they can be read, and whether that is all."""
    rows: list[_Row] = []
    try:
        with closing(sqlite3.connect(path)) as connection:
            for row in connection.execute(_READ):
                rows.append(row)
    except sqlite3.Error:
        return rows, False
    return rows, True


def carry_over(connection: sqlite3.Connection, rows: Sequence[_Row]) -> int:
    """Puts rows into a new outbox, and answers how many it took: one whose values do not fit their columns is none."""
    carried = 0
    for row in rows:
        try:
            connection.execute(_WRITE, row)
            carried += 1
        except sqlite3.IntegrityError:
            continue
    return carried
