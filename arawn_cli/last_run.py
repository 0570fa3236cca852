"""When a job last ran on a root, by the wall clock: a clock that is earlier now cannot be trusted with ages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from arawn_cli.database import DatabaseUnreadableError, query
from arawn_cli.errors import RefusedError
from arawn_cli.instants import SECOND, render
from arawn_cli.state import FILE, StateUnavailableError, open_state

log = logging.getLogger(__name__)

# Time synchronisation sets a clock back by seconds; a clock that lost its time is back by far more.
_TOLERANCE = 60 * SECOND


def refuse_earlier_clock(state_directory: Path, job: str, root: Path, now: int) -> None:
    """Looks whether the clock has gone back since the job last ran; nothing is written.

    Raises:
        RefusedError: it has, by more than a minute.
    """
    last = _last(state_directory / FILE, job, root)
    if last is not None and now < last - _TOLERANCE:
        raise RefusedError(
            f"the clock says {render(now)}, and {job} last ran at {render(last)}: ages cannot be trusted, nothing was removed; "
            "set the clock right, or go on with --force"
        )


def record(state_directory: Path, job: str, root: Path, clock: Callable[[], int]) -> None:
    """Notes that a job runs now; state that takes no change (a full disk) is only a warning."""
    try:
        state = open_state(state_directory, clock)
        try:
            with state.transaction() as connection:
                connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (job, str(root), clock()))
        finally:
            state.close()
    except StateUnavailableError as error:
        log.warning("%s: the time of this run is not noted", error)


def _last(path: Path, job: str, root: Path) -> int | None:
    try:
        if not path.exists():
            return None
        rows = query(path, "SELECT last_run FROM runs WHERE job = ? AND root = ?", (job, str(root)))
    except (DatabaseUnreadableError, OSError) as error:
        log.warning("%s: when %s last ran is not known", error, job)
        return None
    return next((value for (value,) in rows if isinstance(value, int)), None)
