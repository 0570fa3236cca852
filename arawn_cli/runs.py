"""Record the last run of each job on a root, and totals of all runs."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from arawn_cli.events import JobName
from arawn_cli.state import State, key_of
from arawn_cli.state_file import MAX_INTEGER

READ = "SELECT last_run, last_success, removed_sessions, freed_bytes FROM runs WHERE job = ? AND root = ?"
"""The columns of a `Run`."""


@dataclass(frozen=True, slots=True)
class Run:
    """The last run of a job on a root, in nanoseconds since the epoch, and totals of all runs."""

    last_run: int
    last_success: int | None
    removed_sessions: int
    freed_bytes: int


def read(state: State, job: JobName, root: Path) -> Run | None:
    """Return the record of a job, or None if it has never run.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    return next((Run(*row) for row in state.select(READ, (job, key_of(root)))), None)


def has_ended_since(connection: sqlite3.Connection, job: JobName, root: Path, start: int, now: int) -> bool:
    """Return whether a run that began after `start` has ended already.

    A recorded time after `now` comes from a clock that was wrong, and is ignored.
    """
    statement = "SELECT 1 FROM runs WHERE job = ? AND root = ? AND last_run > ? AND last_run <= ?"
    return connection.execute(statement, (job, key_of(root), start, now)).fetchone() is not None


def store(connection: sqlite3.Connection, job: JobName, root: Path, run: Run) -> None:
    """Store a run in an open transaction.

    Its removed sessions and bytes are added to the stored totals.
    """
    connection.execute(
        "INSERT INTO runs (job, root, last_run, last_success, removed_sessions, freed_bytes) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (job, root) DO UPDATE SET last_run = excluded.last_run, "
        "last_success = coalesce(excluded.last_success, last_success), "
        "removed_sessions = removed_sessions + excluded.removed_sessions, "
        "freed_bytes = CAST(min(freed_bytes + excluded.freed_bytes, 9.2e18) AS INTEGER)",
        (job, key_of(root), run.last_run, run.last_success, min(run.removed_sessions, MAX_INTEGER), min(run.freed_bytes, MAX_INTEGER)),
    )
