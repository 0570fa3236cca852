"""When a job last ran on a root, by the wall clock: a clock that is earlier now cannot be trusted with ages."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from arawn_cli.errors import RefusedError
from arawn_cli.instants import SECOND, render
from arawn_cli.state import State, StateUnavailableError

log = logging.getLogger(__name__)

# Time synchronisation sets a clock back by seconds; a clock that lost its time is back by far more.
_TOLERANCE = 60 * SECOND


def refuse_earlier_clock(state: State, job: str, root: Path, now: int) -> None:
    """Looks whether the clock has gone back since the job last ran; nothing is written.

    Raises:
        RefusedError: it has, by more than a minute.
    """
    last = _last(state, job, root)
    if last is not None and now < last - _TOLERANCE:
        raise RefusedError(
            f"the clock says {render(now)}, and {job} last ran at {render(last)}: ages cannot be trusted, nothing was removed; "
            "set the clock right, or go on with --force"
        )


def record(state: State, job: str, root: Path, now: int, *, succeeded: bool) -> None:
    """Notes that a job has run; state that takes no change (a full disk) is only a warning."""
    try:
        with state.transaction() as connection:
            note(connection, job, root, now, succeeded=succeeded)
    except StateUnavailableError as error:
        log.warning("%s: the time of this run is not noted", error)


def note(connection: sqlite3.Connection, job: str, root: Path, now: int, *, succeeded: bool) -> None:
    """Notes that a job has run on a root, in a transaction that is under way."""
    connection.execute(
        "INSERT INTO runs (job, root, last_run, last_success) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (job, root) "
        "DO UPDATE SET last_run = ?3, last_success = coalesce(?4, last_success)",
        (job, str(root), now, now if succeeded else None),
    )


def _last(state: State, job: str, root: Path) -> int | None:
    try:
        rows = state.select("SELECT last_run FROM runs WHERE job = ? AND root = ?", (job, str(root)))
    except StateUnavailableError as error:
        log.warning("%s: when %s last ran is not known", error, job)
        return None
    return next((value for (value,) in rows if isinstance(value, int)), None)
