"""Keep the removals of cleanups, and refuse a cleanup if the clock cannot be trusted."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from arawn_cli import runs
from arawn_cli.errors import RefusedError, StateUnavailableError
from arawn_cli.events import JobName
from arawn_cli.problems import STATE
from arawn_cli.runs import Run
from arawn_cli.state import State, key_of
from arawn_cli.state_file import MAX_INTEGER
from arawn_cli.timestamps import DAY, HOUR, SECOND, Boot, minute
from arawn_cli.units import span

log = logging.getLogger(__name__)

_TOLERANCE = HOUR
_GAP_AFTER_REBOOT = 35 * DAY
"""A machine may be off for so long even if cleanup runs more often."""

REMOVALS_KEPT = 366 * DAY

_REMOVAL = "session, removed_at, run, reason, detail, bytes, purged_at"  # the columns of a `Removal`


class Clocks(NamedTuple):
    """The clocks at the start of a cleanup.

    Attributes:
        wall: the wall clock, in nanoseconds since the epoch.
        refused: whether that run removed nothing because of its clock.
    """

    wall: int
    boot: Boot
    refused: bool = False


def longest_gap(cutoff: int, period: int) -> int:
    """Return the longest believable time between two cleanups with a reboot in between.

    All are in nanoseconds: `cutoff` is the age from which a session is inactive, `period` the
    longest time between two scheduled cleanups.
    """
    return max(_GAP_AFTER_REBOOT, cutoff, 2 * period)


def clock_doubt(previous: Clocks | None, now: Clocks, gap: int) -> str | None:
    """Return why the wall clock cannot be trusted, as a clause; None if it can.

    During one boot it must move as far as the clock of the boot. After a reboot, or if the boots
    are unknown and it moved otherwise, it must not be earlier than it was, and at most `gap`
    nanoseconds later. The run after a refused one is accepted, because the clock may have been set
    right or be right in spite of the doubt.
    """
    if previous is None or previous.refused:
        return None
    moved = now.wall - previous.wall
    ran = now.boot.elapsed - previous.boot.elapsed
    # A boot whose clock went back is another one: a container can hide the true id.
    boots = {previous.boot.identity, now.boot.identity}
    is_same = len(boots) == 1 and None not in boots and ran >= 0
    if (is_same or None in boots) and ran >= 0 and abs(moved - ran) <= _TOLERANCE:
        return None
    if is_same:
        how = "back" if moved < 0 else "forward"
        return f"the clock went {how} by {_duration(abs(moved))} since the last cleanup, while the machine ran {_duration(ran)}"
    if moved < 0:
        return f"the clock says {minute(now.wall)}, but the last cleanup was at {minute(previous.wall)}"
    if moved > gap:
        return (
            f"the clock says {minute(now.wall)}, {_duration(moved)} after the last cleanup, with a reboot in between; "
            f"at most {_duration(gap)} are expected"
        )
    return None


def check_clock(state: State, root: Path, now: Clocks, gap: int, *, force: bool, dry_run: bool) -> None:
    """Compare the clock with the previous cleanup of a root, and store it unless in a dry run.

    Raises:
        RefusedError: it cannot be trusted (`clock_doubt`). With `force` it is only stored.
    """
    previous = None
    if not dry_run:
        with suppress(StateUnavailableError):  # logged when the clock cannot be stored
            state.open()  # reading a copy first would check the file twice
    try:
        previous = _read_clocks(state, root)
    except StateUnavailableError as error:
        log.warning("%s: the clock of the last cleanup is unknown", error, extra=STATE)
    doubt = None if force else clock_doubt(previous, now, gap)
    is_stored = dry_run or _store_clocks(state, root, now, refused=doubt is not None)
    if doubt is not None:
        what = "a run now removes nothing" if dry_run else "nothing was removed"
        after = "the run after it goes on" if dry_run else "the next run goes on"
        if not is_stored:
            after = "then run with --force, since this run could not be recorded"
        raise RefusedError(f"{doubt}: ages cannot be trusted, {what}; check the clock (date), {after}")


def _read_clocks(state: State, root: Path) -> Clocks | None:
    rows = state.select("SELECT wall, boot, elapsed, refused FROM clocks WHERE root = ?", (key_of(root),))
    return next((Clocks(wall, Boot(boot, elapsed), bool(refused)) for wall, boot, elapsed, refused in rows), None)


def _store_clocks(state: State, root: Path, now: Clocks, *, refused: bool) -> bool:
    """Store the clocks, and a refused run as one without success. Return whether it succeeded."""
    values = (key_of(root), now.wall, now.boot.identity, now.boot.elapsed, int(refused))
    try:
        with state.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO clocks (root, wall, boot, elapsed, refused) VALUES (?, ?, ?, ?, ?)", values)
            if refused:
                runs.store(connection, JobName.SCRATCH_CLEANUP, root, Run(now.wall, None, 0, 0))
    except StateUnavailableError as error:
        log.warning("%s: the clock of this run is not stored", error, extra=STATE)
        return False
    return True


def _duration(nanoseconds: int) -> str:
    """Return a duration for people, in days, hours or seconds."""
    for unit, name in ((DAY, "days"), (HOUR, "hours")):
        if nanoseconds >= 2 * unit:
            return f"{nanoseconds / unit:,.1f} {name}"
    return span(nanoseconds / SECOND)


@dataclass(frozen=True, slots=True)
class Removal:
    """The record of a removed session. Times are in nanoseconds since the epoch.

    Attributes:
        removed_at: in whole seconds, as in the name of its entry in the trash.
        run: when the cleanup began that removed it.
        reason: why it was removed, with the detail.
        bytes: its apparent size.
        purged_at: when it was deleted for good, or None while it is in the trash.
    """

    session: str
    removed_at: int
    run: int
    reason: str
    detail: str
    bytes: int
    purged_at: int | None = None


Removed = tuple[str, int]
"""The session of a removal, and when it was removed."""


def record(
    state: State,
    job: JobName,
    root: Path,
    run: Run,
    removals: Iterable[Removal] = (),
    purged: Iterable[Removed] = (),
    restored: Iterable[Removed] = (),
) -> None:
    """Store a run, with the sessions that it removed, purged and restored, in its own transaction.

    If the state cannot be written, only log a warning.
    """
    try:
        with state.transaction() as connection:
            key = key_of(root)
            runs.store(connection, job, root, run)
            connection.executemany(
                f"INSERT OR REPLACE INTO removals (root, {_REMOVAL}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - a constant
                [  # `astuple` deep-copies each value
                    (key, each.session, each.removed_at, each.run, each.reason, each.detail, min(each.bytes, MAX_INTEGER), each.purged_at)
                    for each in removals
                ],
            )
            connection.execute("DELETE FROM removals WHERE removed_at < ?", (run.last_run - REMOVALS_KEPT,))
            _change_removals(connection, root, purged, restored, run.last_run)
    except StateUnavailableError as error:
        log.warning("%s: this run is not recorded", error, extra=STATE)


def record_trash(state: State, root: Path, now: int, *, purged: Iterable[Removed] = (), restored: Iterable[Removed] = ()) -> None:
    """Record that removed sessions were purged at `now`, or restored.

    If the state cannot be written, only log a warning.
    """
    try:
        with state.transaction() as connection:
            _change_removals(connection, root, purged, restored, now)
    except StateUnavailableError as error:
        log.warning("%s: the record of removals is not up to date", error, extra=STATE)


def _change_removals(connection: sqlite3.Connection, root: Path, purged: Iterable[Removed], restored: Iterable[Removed], now: int) -> None:
    key, which = key_of(root), "WHERE root = ? AND session = ? AND removed_at = ?"
    connection.executemany(f"UPDATE removals SET purged_at = ? {which}", [(now, key, *removed) for removed in purged])  # noqa: S608
    connection.executemany(f"DELETE FROM removals {which}", [(key, *removed) for removed in restored])  # noqa: S608 - a constant


def read_removals(state: State, root: Path) -> list[Removal]:
    """Return the recorded removals of a root, the oldest first.

    Raises:
        StateUnavailableError: the state file cannot be read.
    """
    rows = state.select(f"SELECT {_REMOVAL} FROM removals WHERE root = ? ORDER BY removed_at, session", (key_of(root),))  # noqa: S608
    return [Removal(*row) for row in rows]
