"""Read the workstreams and sessions in Arawn's database, while a server may write to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from arawn_cli import timestamps
from arawn_cli.arawn.layout import MAIN, SCRATCH, V0, Layout
from arawn_cli.errors import never_stopping
from arawn_cli.sqlite import read_database
from arawn_cli.timestamps import latest


class WorkstreamRow(NamedTuple):
    """A row of the table `workstreams`.

    Attributes:
        id: the name of its directory: in 0.0 the id of the row, on main its name.
        title: the title in 0.0; on main the display name.
        sessions: the number of rows in `sessions` that name it.
        archived: whether it is archived.
    """

    id: str
    title: str
    sessions: int = 0
    archived: bool = False

    @property
    def is_scratch(self) -> bool:
        """Whether it is the workstream of the scratch sessions, whose id is fixed."""
        return self.id == SCRATCH


class SessionRow(NamedTuple):
    """A row of the table `sessions`.

    `workstream_id` is empty if the row names none. `newest` is the newest of its times, in
    nanoseconds since the epoch.

    `unreadable` is true if one of its times is not an RFC 3339 text.
    """

    workstream_id: str
    newest: int | None
    unreadable: bool


class SessionRows(NamedTuple):
    """The wanted content of the table `sessions`.

    Attributes:
        rows: the wanted rows by id.
        workstreams_with_turns: the workstreams of all rows that record turns. Only 0.0 counts them.
    """

    rows: dict[str, SessionRow]
    workstreams_with_turns: frozenset[str]


_COUNTS = "LEFT JOIN (SELECT workstream_id, count(*) AS number FROM sessions GROUP BY workstream_id) s ON s.workstream_id = w.id"
_WORKSTREAMS = {
    V0: f"SELECT w.id, nullif(title, ''), state = 'archived', coalesce(number, 0) FROM workstreams w {_COUNTS}",  # noqa: S608 - a constant
    MAIN: f"SELECT name, nullif(display_name, ''), archived, coalesce(number, 0) FROM workstreams w {_COUNTS}",  # noqa: S608
}
# The workstream of a session is the name of its directory. On main NULL means scratch. An index
# that was damaged can lack rows, so it is not read instead of the table.
_SESSIONS = {
    V0: "SELECT id, workstream_id, turn_count > 0, started_at, ended_at FROM sessions NOT INDEXED",
    MAIN: (
        "SELECT s.id, CASE WHEN s.workstream_id IS NULL THEN 'scratch' ELSE coalesce(w.name, s.workstream_id) END, 0, s.created_at "
        "FROM sessions s NOT INDEXED LEFT JOIN workstreams w ON w.id = s.workstream_id"
    ),
}


_TABLES = ("workstreams", "sessions")

_NAME_BYTES_MAX = 255  # no directory can have a longer name
_TITLE_MAX = 1000


def workstream_rows(path: Path, layout: Layout, stopping: Callable[[], bool] = never_stopping) -> list[WorkstreamRow]:
    """Return all rows of `workstreams` whose id can be the name of a directory.

    Raises:
        DatabaseUnreadableError: the file is not a database, lacks the table, or cannot be read.
        StoppedError: a signal asked the run to end.
    """

    def read(database: sqlite3.Connection) -> list[WorkstreamRow]:
        return [
            WorkstreamRow(_text(id_), _text(id_ if title is None else title)[:_TITLE_MAX], int(_text(count)), archived=bool(archived))
            for id_, title, archived, count in database.execute(_WORKSTREAMS[layout])
            if len(_text(id_)) <= _NAME_BYTES_MAX
        ]

    return read_database(path, read, tables=_TABLES, stopping=stopping)


def session_rows(path: Path, layout: Layout, wanted: Collection[str], stopping: Callable[[], bool] = never_stopping) -> SessionRows:
    """Read the table `sessions` in one transaction, and return the rows of the wanted ids.

    Raises:
        DatabaseUnreadableError, StoppedError: as `workstream_rows`.
    """

    def read(database: sqlite3.Connection) -> SessionRows:
        rows: dict[str, SessionRow] = {}
        with_turns: set[str] = set()
        for id_, workstream_id, has_turns, *times in database.execute(_SESSIONS[layout]):
            name, workstream = _text(id_), "" if workstream_id is None else _text(workstream_id)
            if has_turns and 0 < len(workstream) <= _NAME_BYTES_MAX:
                with_turns.add(workstream)
            if name in wanted:
                rows[name] = _with_row(rows.get(name, SessionRow(SCRATCH, None, unreadable=False)), workstream, times)
        return SessionRows(rows, frozenset(with_turns))

    return read_database(path, read, tables=_TABLES, stopping=stopping)


def _with_row(known: SessionRow, workstream: str, times: Iterable[object]) -> SessionRow:
    """Add a row: a session can have several, with its id as text and BLOB, or without an index."""
    newest, unreadable = known.newest, known.unreadable
    for value in times:
        try:
            newest = latest(newest, None if value is None else timestamps.parse(_text(value)))
        except ValueError:
            unreadable = True
    return SessionRow(workstream if known.workstream_id == SCRATCH else known.workstream_id, newest, unreadable)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
