"""When a job last ran on a root, by the wall clock: a clock that is earlier now cannot be trusted with ages."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from arawn_cli.errors import RefusedError
from arawn_cli.events import JobName
from arawn_cli.state import LARGEST, State, StateUnavailableError, key_of
from arawn_cli.timestamps import SECOND, render

log = logging.getLogger(__name__)

# Time synchronisation sets a clock back by seconds; a clock that lost its time is back by far more.
TOLERANCE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Run:
    """What is noted of a job on a root: instants in nanoseconds, and what all its runs removed together."""

    last_run: int
    last_success: int | None
    removed_sessions: int
    reclaimed_bytes: int


def noted(state: State, job: JobName, root: Path) -> Run | None:
    """What is noted of a job, or None when it has never run.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    statement = "SELECT last_run, last_success, removed_sessions, reclaimed_bytes FROM runs WHERE job = ? AND root = ?"
    rows = state.select(statement, (job, key_of(root)))
    return next((Run(*row) for row in cast("list[tuple[int, int | None, int, int]]", rows)), None)


def refuse_earlier_clock(state: State, job: JobName, root: Path, now: int) -> None:
    """Looks whether the clock has gone back since the job last ran; nothing is written.

    Raises:
        RefusedError: it has, by more than a minute.
    """
    try:
        run = noted(state, job, root)
    except StateUnavailableError as error:
        log.warning("%s: when %s last ran is not known", error, job)
        return
    if run is not None and now < run.last_run - TOLERANCE:
        raise RefusedError(
            f"the clock says {render(now)}, and {job} last ran at {render(run.last_run)}: ages cannot be trusted, nothing was removed; "
            "set the clock right, or go on with --force"
        )


def was_since(connection: sqlite3.Connection, job: JobName, root: Path, began: int, now: int) -> bool:
    """Whether a run of a job that began later has ended already; a time in the future is that of a clock that was wrong."""
    statement = "SELECT 1 FROM runs WHERE job = ? AND root = ? AND last_run > ? AND last_run <= ?"
    return connection.execute(statement, (job, key_of(root), began, now)).fetchone() is not None


def record(state: State, job: JobName, root: Path, run: Run) -> None:
    """Notes a run of a job, with what it removed; state that takes no change (a full disk) is only a warning."""
    try:
        with state.transaction() as connection:
            note(connection, job, root, run)
    except StateUnavailableError as error:
        log.warning("%s: the time of this run is not noted", error)


def note(connection: sqlite3.Connection, job: JobName, root: Path, run: Run) -> None:
    """Notes a run of a job on a root, in a transaction that is under way; what it removed is added to what is noted."""
    connection.execute(
        "INSERT INTO runs (job, root, last_run, last_success, removed_sessions, reclaimed_bytes) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (job, root) DO UPDATE SET last_run = excluded.last_run, "
        "last_success = coalesce(excluded.last_success, last_success), "
        "removed_sessions = removed_sessions + excluded.removed_sessions, "
        "reclaimed_bytes = CAST(min(reclaimed_bytes + excluded.reclaimed_bytes, 9.2e18) AS INTEGER)",
        (job, key_of(root), run.last_run, run.last_success, min(run.removed_sessions, LARGEST), min(run.reclaimed_bytes, LARGEST)),
    )
