"""Read the workstreams and sessions in Arawn's database, while a server may write to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from arawn_cli import timestamps
from arawn_cli.arawn.layout import SCRATCH
from arawn_cli.sqlite import query
from arawn_cli.timestamps import latest


@dataclass(frozen=True, slots=True)
class WorkstreamRow:
    """A row of the table `workstreams`.

    `sessions` is the number of rows in `sessions` that name it.
    """

    id: str
    title: str
    sessions: int = 0

    @property
    def is_scratch(self) -> bool:
        """Whether it is the workstream of the scratch sessions, whose id is fixed."""
        return self.id == SCRATCH


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A row of the table `sessions`.

    `newest` is the newest of its times, in nanoseconds since the epoch.

    `unreadable` is true if one of its times is not an RFC 3339 text.
    """

    id: str
    workstream_id: str
    newest: int | None
    unreadable: bool


def workstream_rows(path: Path) -> list[WorkstreamRow]:
    """Return all rows of `workstreams`.

    Raises:
        DatabaseUnreadableError: the file is not a database, lacks the table, or cannot be opened.
    """
    counted = "SELECT id, title, (SELECT COUNT(*) FROM sessions WHERE workstream_id = w.id) FROM workstreams AS w"
    rows = query(path, counted, ())
    return [WorkstreamRow(_text(id_), _text(id_ if title is None else title), int(_text(count))) for id_, title, count in rows]


def session_rows(path: Path, wanted: Collection[str]) -> dict[str, SessionRow]:
    """Return the rows of `sessions` with the wanted ids, by id.

    Raises:
        DatabaseUnreadableError: as `workstream_rows`.
    """
    columns = "SELECT id, workstream_id, started_at, ended_at FROM sessions"
    one = f"{columns} WHERE id IN (?, CAST(? AS BLOB))"
    rows = query(path, one, (*wanted, *wanted)) if len(wanted) == 1 else query(path, columns, ())
    found = (_session(*row) for row in rows)
    return {row.id: row for row in found if row.id in wanted}


def _session(id_: object, workstream_id: object, *times: object) -> SessionRow:
    readable: list[int] = []
    unreadable = False
    for value in times:
        if value is None:
            continue
        try:
            readable.append(timestamps.parse(_text(value)))
        except ValueError:
            unreadable = True
    return SessionRow(_text(id_), _text(workstream_id), latest(*readable), unreadable)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
