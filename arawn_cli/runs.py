"""Record when a job last ran on a root, and refuse to run if the clock has gone back since."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from arawn_cli.errors import RefusedError
from arawn_cli.events import JobName
from arawn_cli.state import MAX_INTEGER, State, StateUnavailableError, key_of
from arawn_cli.timestamps import SECOND, render

log = logging.getLogger(__name__)

# Time synchronisation sets a clock back by seconds. A clock that lost its time is wrong by far
# more.
TOLERANCE = 60 * SECOND

READ = "SELECT last_run, last_success, removed_sessions, reclaimed_bytes FROM runs WHERE job = ? AND root = ?"
"""The columns of a `Run`."""


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of a job on a root, in nanoseconds since the epoch, and totals of all runs."""

    last_run: int
    last_success: int | None
    removed_sessions: int
    reclaimed_bytes: int


def read(state: State, job: JobName, root: Path) -> Run | None:
    """Return the record of a job, or None if it has never run.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    rows = state.select(READ, (job, key_of(root)))
    return next((Run(*row) for row in cast("list[tuple[int, int | None, int, int]]", rows)), None)


def refuse_earlier_clock(state: State, job: JobName, root: Path, now: int) -> None:
    """Check that the clock has not gone back by more than a minute since the job last ran.

    Raises:
        RefusedError: it has.
    """
    try:
        run = read(state, job, root)
    except StateUnavailableError as error:
        log.warning("%s: the last run of %s is unknown", error, job)
        return
    if run is not None and now < run.last_run - TOLERANCE:
        raise RefusedError(
            f"the clock says {render(now)}, but {job} last ran at {render(run.last_run)}: ages cannot be trusted, nothing was removed; "
            "set the clock right, or run with --force"
        )


def has_ended_since(connection: sqlite3.Connection, job: JobName, root: Path, start: int, now: int) -> bool:
    """Return whether a run that began after `start` has ended already.

    A recorded time after `now` comes from a clock that was wrong, and is ignored.
    """
    statement = "SELECT 1 FROM runs WHERE job = ? AND root = ? AND last_run > ? AND last_run <= ?"
    return connection.execute(statement, (job, key_of(root), start, now)).fetchone() is not None


def record(state: State, job: JobName, root: Path, run: Run) -> None:
    """Store a run in a transaction of its own.

    If the state cannot be written, only log a warning.
    """
    try:
        with state.transaction() as connection:
            store(connection, job, root, run)
    except StateUnavailableError as error:
        log.warning("%s: the time of this run is not stored", error)


def store(connection: sqlite3.Connection, job: JobName, root: Path, run: Run) -> None:
    """Store a run in an open transaction.

    Its removed sessions and bytes are added to the stored totals.
    """
    connection.execute(
        "INSERT INTO runs (job, root, last_run, last_success, removed_sessions, reclaimed_bytes) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (job, root) DO UPDATE SET last_run = excluded.last_run, "
        "last_success = coalesce(excluded.last_success, last_success), "
        "removed_sessions = removed_sessions + excluded.removed_sessions, "
        "reclaimed_bytes = CAST(min(reclaimed_bytes + excluded.reclaimed_bytes, 9.2e18) AS INTEGER)",
        (job, key_of(root), run.last_run, run.last_success, min(run.removed_sessions, MAX_INTEGER), min(run.reclaimed_bytes, MAX_INTEGER)),
    )
